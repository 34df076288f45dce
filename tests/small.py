"""A run that takes a second: the whole path from data to report on few, small cells."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

SMALL = (
    "--data.cells=60", "--data.genes=16", "--data.types=4", "--data.sets.size=32", "--width=16", "--depth=2",
    "--attention.heads=2", "--sampling=2", "--train.warmup=2", "--train.log_every=1",
)  # fmt: skip


def command(*words: str) -> list[str]:
    return [sys.executable, "-P", "-m", "core", *words]


def environment() -> dict[str, str]:
    """One thread, and the checkout on the path; no colours, no user settings."""
    root = str(Path(__file__).resolve().parent.parent)
    kept = {k: v for k, v in os.environ.items() if not k.startswith("CORE_")}
    return kept | {"OMP_NUM_THREADS": "1", "PYTHONPATH": root, "CORE_CONFIG": os.devnull, "NO_COLOR": "1"}


def core(*words: str, cwd: Path, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own."""
    return subprocess.run(command(*words), cwd=cwd, env=environment(), capture_output=True, text=True, timeout=timeout)


def final_files(run: Path) -> dict[str, bytes]:
    """The bytes that two equal runs must share: curves, final weights, scores."""
    last = max((run / "checkpoints").glob("step-*"))
    names = ["metrics.jsonl", "evaluation.json", "gates.json"]
    found = {name: (run / name).read_bytes() for name in names}
    return found | {f.name: f.read_bytes() for f in sorted(last.iterdir()) if f.suffix == ".safetensors"}


def same(a: Path, b: Path) -> Iterable[str]:
    """Names of final files that differ."""
    left, right = final_files(a), final_files(b)
    assert left.keys() == right.keys()
    return [name for name in left if left[name] != right[name]]
