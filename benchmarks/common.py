"""Timing that two sides of a comparison share."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping

from core.__main__ import keeping

MEMORY: dict[str, dict[str, str]] = {"given back": {}, "kept": keeping({}) or {}}
"""what is added to the environment, by what becomes of memory that was freed: as a bare process does, as `core` does"""


def interleaved(sides: Mapping[str, Callable[[], object]], repeats: int, warm: int = 1) -> dict[str, float]:
    """Median CPU seconds of each side, the sides taking turns, so that a disturbance of the machine hits all.

    CPU time is that of the whole process: run one thread, or compare sides that use as many.
    """
    taken: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(warm + repeats):
        for name, run in sides.items():
            start = time.process_time()
            run()
            if turn >= warm:
                taken[name].append(time.process_time() - start)
    return {name: statistics.median(times) for name, times in taken.items()}


def ratio_line(what: str, ours: float, theirs: float, bar: float | None = None) -> str:
    """`theirs / ours` in words, and whether it reaches the bar where there is one."""
    ratio = theirs / ours
    verdict = "" if bar is None else f" (bar {bar:g}: {'reached' if ratio >= bar else 'MISSED'})"
    return f"{what}: {ratio:.2f} times faster{verdict}"


def median_seconds(run: Callable[[], object], repeats: int, warm: int = 1) -> tuple[float, float]:
    """CPU seconds of the median call of `repeats`, after `warm` others: computing, and the system's."""
    for _ in range(warm):
        run()
    taken = []
    for _ in range(repeats):
        start = os.times()
        run()
        now = os.times()
        taken.append((now.user - start.user, now.system - start.system))
    return sorted(taken, key=sum)[repeats // 2]


def apart(module: str, *argv: str, memory: str) -> list[float]:
    """The numbers that `python -m module argv` prints in a process of its own, with memory as of `MEMORY`.

    Raises:
        RuntimeError: it failed, or was killed, as for want of memory.
    """
    command = [sys.executable, "-m", module, *argv]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | MEMORY[memory])
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr}")
    return [float(number) for number in done.stdout.split()]
