"""Seconds of a training step, measured on this machine: for the time that a plan will take, and to match arms by it."""

from __future__ import annotations

import statistics
import time

from core.config import Resolved
from core.train.session import open_run

WARM, STEPS = 2, 5


def step_seconds(resolved: Resolved, steps: int = STEPS) -> tuple[float, int]:
    """Median seconds of `steps` training steps after two that are not counted, and how many steps the training has.

    The weights are thrown away.

    Raises:
        UserError: the data cannot be opened.
    """
    trainer = open_run(resolved).trainer()
    taken = []
    for turn in range(WARM + steps):
        began = time.perf_counter()
        trainer.step()
        if turn >= WARM:
            taken.append(time.perf_counter() - began)
    return statistics.median(taken), trainer.total
