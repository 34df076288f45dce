"""What every statistic here stands on: checked scores, complete pairs, an estimate with its interval.

Shape legend: S seeds.

A missing score is NaN or None. It never counts as a number: the pair that it belongs to is left out, and every result
says how many were.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray
from scipy import special

Floats = NDArray[np.float64]
Scores = Sequence[float | None] | NDArray[Any]
"""one number a seed; NaN or None where there is none"""

FEWEST = 3
"""complete pairs below which nothing is tested and no interval is given, only dots are shown"""

ROUNDING = 4 * float(np.finfo(np.float64).eps)
"""how much the difference of two scores may be off, as a share of the larger"""
LARGEST = 1e100
"""the largest score, so that squares of scores are finite"""


@attrs.frozen(kw_only=True)
class Estimate:
    """A number with its interval; both ends are None where the data say nothing about its error."""

    value: float
    low: float | None = None
    high: float | None = None


@attrs.frozen(kw_only=True)
class Pairs:
    """The seeds that have both scores, in an order that depends on the scores alone, so that sums come out the same."""

    base_S: Floats
    arm_S: Floats
    left_out: int
    """seeds where either score is missing"""


def values(name: str, given: Any, *, dims: int = 1) -> Floats:
    """`given` as float64 with `dims` axes; ValueError for other shapes, values that are infinite or no numbers.

    Missing scores (NaN, None) stay NaN.
    """
    try:
        array = np.asarray(given)
        words = array.dtype == object and any(isinstance(v, str | bool) for v in array.flat)
        if words or array.dtype.kind not in "fiuO":
            raise TypeError
        array = array.astype(np.float64)
    except (TypeError, ValueError):
        message = f"{name} must hold numbers (NaN or None where a score is missing), got {given!r:.80}."
        raise ValueError(message) from None
    if array.ndim != dims:
        raise ValueError(f"{name} must have {dims} axes, got shape {array.shape}.")
    if np.any(np.abs(array) > LARGEST):
        message = (
            f"{name} holds values that are infinite or beyond {LARGEST:g}. Mark a run that diverged as missing (NaN), "
            "or give it the metric's worst finite value."
        )
        raise ValueError(message)
    return array


def pairs(base_S: Scores, arm_S: Scores) -> Pairs:
    """Score i of both belongs to one seed. ValueError where the lengths differ."""
    base, arm = values("base_S", base_S), values("arm_S", arm_S)
    if base.shape != arm.shape:
        message = (
            f"base_S has {base.size} scores and arm_S {arm.size}; pairs need one of each for every seed, "
            "NaN where a run is missing."
        )
        raise ValueError(message)
    complete = ~(np.isnan(base) | np.isnan(arm))
    base, arm = base[complete], arm[complete]
    order = np.lexsort((arm, base))
    return Pairs(base_S=base[order], arm_S=arm[order], left_out=int((~complete).sum()))


def share(name: str, given: float) -> float:
    """ValueError unless 0 < given < 1."""
    if not 0 < given < 1:
        raise ValueError(f"{name} must lie between 0 and 1, got {given!r}.")
    return float(given)


def positive(name: str, given: float) -> float:
    """ValueError unless `given` is finite and above 0."""
    if not 0 < given < float("inf"):
        raise ValueError(f"{name} must be a finite number above 0, got {given!r}.")
    return float(given)


def t_quantile(p: float, df: float) -> float:
    return float(special.stdtrit(df, p))


def t_two_sided(t: float, df: float) -> float:
    return float(2 * special.stdtr(df, -abs(t)))


def interval(value: float, error: float, df: float, alpha: float) -> Estimate:
    """`value` with its 1 - alpha interval from a standard error and the t distribution."""
    half = t_quantile(1 - alpha / 2, df) * error
    return Estimate(value=float(value), low=float(value - half), high=float(value + half))


def spread(x_S: Floats, scale: float) -> float:
    """Standard deviation (n - 1); 0 where the values differ by no more than rounding of numbers up to `scale`."""
    low, high = float(x_S.min()), float(x_S.max())
    if high - low <= ROUNDING * scale:
        return 0.0
    # Divided first, so that squares of very small numbers are not lost.
    unit = max(high, -low)
    z_S = (x_S - x_S.sum() / x_S.size) / unit
    return unit * math.sqrt(float(z_S @ z_S) / (x_S.size - 1))


def grown(log: float) -> float | None:
    """exp(log) - 1, a logarithm of a ratio as a relative change; None where that is too large for a number."""
    return math.expm1(log) if log < math.log(LARGEST) else None
