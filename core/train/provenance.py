"""Where and with what a run was made, for its record."""

from __future__ import annotations

import contextlib
import datetime
import os
import platform
import subprocess
from collections.abc import Collection, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from core.choices import Resolved


def now() -> str:
    """This moment as a record tells it, in UTC."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def environment(resolved: Resolved, device: torch.device, argv: list[str]) -> dict[str, Any]:
    """The command, the versions and the machine of a run, for its record."""
    rows = [s.row for s in resolved.settings.values() if s.row is not None]
    told: Mapping[str, Any] = {
        "command": argv,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "distributions": dict(sorted({r.origin.name: r.origin.version for r in rows}.items())),
        "numpy": version("numpy"),
        "device": str(device),
        "threads": torch.get_num_threads(),
        "platform": platform.platform(),
        "commit": _commit(),
        "pid": os.getpid(),
    }
    return dict(told)


def code_of(told: Mapping[str, Any]) -> str:
    """`cellcore 0.1.0 at 2a7edec01`: the code of a run, from what `environment` told; empty where it told nothing."""
    names = ", ".join(f"{name} {number}" for name, number in told.get("distributions", {}).items())
    commit = told.get("commit") or ""
    short = commit[:9] + ("+" if commit.endswith("+") else "")
    return f"{names} at {short}" if names and short else names or short


def code_here(distributions: Collection[str]) -> str:
    """The same of what is installed now, for the distributions named."""
    found = {}
    for name in distributions:
        with contextlib.suppress(PackageNotFoundError):  # a checkout that is on the path and not installed
            found[name] = version(name)
    return code_of({"distributions": found, "commit": _commit()})


def _commit() -> str | None:
    """The revision of the checkout that core runs from, `+` where it was changed; None for an installed wheel."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        head, dirty = (
            subprocess.run(
                ["git", "-C", str(root), *words], capture_output=True, text=True, timeout=10, check=True
            ).stdout
            for words in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return head.strip() + ("+" if dirty.strip() else "")
