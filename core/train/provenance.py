"""Where and with what a run was made, for its record."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
from collections.abc import Mapping
from importlib.metadata import version
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
