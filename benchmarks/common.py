"""Timing that two sides of a comparison share."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping


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
