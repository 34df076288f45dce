"""Seconds of training and evaluation, measured on this machine: what a plan will take, and arms matched by time."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable

from core.choices import Resolved
from core.train.session import evaluate, open_run

WARM, STEPS = 2, 5
ROUNDS = 8, 64
"""fewest and most turns in which the steps of two arms are compared"""
LONGEST = 30.0
"""seconds after which a comparison is given up"""
SPAN = 0.05
"""seconds of steps in one half of a turn: shorter ones measure the clock"""


def seconds_of_run(resolved: Resolved, steps: int = STEPS) -> tuple[float, int, float]:
    """Median seconds of a training step after two that are not counted, steps of the training, seconds of its end.

    The end is the evaluation of the weights there are, which are thrown away.

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
    began = time.perf_counter()
    evaluate(trainer)
    return statistics.median(taken), trainer.total, time.perf_counter() - began


def step_ratio(arm: Resolved, base: Resolved, tolerance: float) -> tuple[float, float]:
    """How many times longer a training step of one configuration takes than one of another; see `ratio`.

    Raises:
        UserError: the data cannot be opened.
    """
    return ratio(open_run(arm).trainer().step, open_run(base).trainer().step, tolerance)


def ratio(
    arm: Callable[[], object],
    base: Callable[[], object],
    tolerance: float,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[float, float]:
    """How many times longer one call takes than another, and the relative standard error of that.

    They take turns, so that a load which comes and goes slows both; the median of the turns' ratios passes over turns
    in which it did not. Turns go on until the error is half the tolerance.

    Args:
        arm: what is measured.
        base: what it is measured by.
        tolerance: relative error that is aimed at.
        clock: in seconds.
    """
    began = clock()
    for _ in range(WARM):
        arm(), base()
    each = (clock() - began) / (2 * WARM)
    calls = max(1, math.ceil(SPAN / max(each, 1e-9)))
    found: list[float] = []
    while True:
        parts = []
        for call in (arm, base) if len(found) % 2 else (base, arm):
            start = clock()
            for _ in range(calls):
                call()
            parts.append(clock() - start)
        own, other = parts if len(found) % 2 else parts[::-1]
        found.append(own / max(other, 1e-9))
        middle = statistics.median(found)
        if len(found) >= ROUNDS[0]:
            spread = 1.4826 * statistics.median(abs(value - middle) for value in found)
            error = 1.2533 * spread / math.sqrt(len(found)) / middle  # of a median of normal values
            if error <= tolerance / 2 or len(found) >= ROUNDS[1] or clock() - began > LONGEST:
                return middle, error
