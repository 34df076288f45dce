"""What a number of seeds can detect, and how many seeds an effect needs: the paired t test's power.

Effects and standard deviations are in the same unit: the metric's own, or both as shares of the baseline. `sd` is that
of the difference between arm and baseline over seeds, not of one arm: with sd s in either arm and correlation rho over
seeds it is s sqrt(2 (1 - rho)). Under Holm's correction over m contrasts, plan with alpha / m, the hardest step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import attrs
from scipy import optimize, special

from core.study.stats.scores import FEWEST, positive, share, t_quantile

MOST = 1_000_000
"""seeds beyond which a search gives up"""


@attrs.frozen(kw_only=True)
class Point:
    """One number of seeds on a power curve."""

    n: int
    detectable: float
    """the smallest effect found with the power asked for"""
    power: float | None
    """chance to find the effect asked about; None where none was given"""


def power_of(n: int, effect: float, sd: float, alpha: float = 0.05) -> float:
    """Chance that a two-sided paired t test over `n` seeds says "different", in the effect's own direction.

    Noncentral t with n - 1 degrees of freedom and noncentrality |effect| sqrt(n) / sd (Cohen 1988, chapter 2). Being
    significant in the wrong direction is not counted as power. ValueError below 3 seeds, where nothing is tested.
    """
    _enough(n)
    positive("sd", sd)
    share("alpha", alpha)
    if not math.isfinite(effect):
        raise ValueError(f"effect must be finite, got {effect!r}.")
    return _power(n, abs(effect) / sd, alpha)


def detectable(n: int, sd: float, alpha: float = 0.05, power: float = 0.8) -> float:
    """The smallest effect that `n` seeds find with chance `power`, in the unit of `sd`.

    An "inconclusive" result says no more than that the effect may well be smaller than this. ValueError below 3 seeds,
    or where power is not above alpha.
    """
    _enough(n)
    positive("sd", sd)
    _levels(alpha, power)
    return sd * _detectable(n, alpha, power)


def seeds_needed(effect: float, sd: float, alpha: float = 0.05, power: float = 0.8) -> int:
    """The least number of seeds, 3 or more, that finds `effect` with chance `power`.

    ValueError for an effect of 0, which no number finds, and where more than a million would be needed.
    """
    positive("the size of effect", abs(effect))
    positive("sd", sd)
    _levels(alpha, power)
    size = abs(effect) / sd
    if _power(FEWEST, size, alpha) >= power:
        return FEWEST
    low, high = FEWEST, 2 * FEWEST
    while _power(high, size, alpha) < power:
        low, high = high, 2 * high
        if high > MOST:
            message = f"an effect of {effect!r} at sd {sd!r} needs more than {MOST:,} seeds. Ask about a larger effect."
            raise ValueError(message)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _power(middle, size, alpha) >= power else (middle, high)
    return high


def power_curve(
    seeds: Sequence[int], *, sd: float, alpha: float = 0.05, power: float = 0.8, effect: float | None = None
) -> tuple[Point, ...]:
    """For each number of seeds what it detects and, where `effect` is given, its chance to find that."""
    return tuple(
        Point(
            n=n,
            detectable=detectable(n, sd, alpha, power),
            power=None if effect is None else power_of(n, effect, sd, alpha),
        )
        for n in seeds
    )


def _power(n: int, size: float, alpha: float) -> float:
    df, shift = n - 1, size * math.sqrt(n)
    quantile = t_quantile(1 - alpha / 2, df)
    missed = float(special.nctdtr(df, shift, quantile))
    if math.isnan(missed):  # too far out for scipy; there the approximation of Abramowitz and Stegun, 26.7.10, serves
        missed = float(special.ndtr((quantile * (1 - 1 / (4 * df)) - shift) / math.sqrt(1 + quantile**2 / (2 * df))))
    return 1.0 - missed


@lru_cache(maxsize=1024)
def _detectable(n: int, alpha: float, power: float) -> float:
    high = 1.0
    while _power(n, high, alpha) < power:
        high *= 2
    return float(optimize.brentq(lambda size: _power(n, size, alpha) - power, 0.0, high, xtol=1e-13, rtol=1e-13))


def _enough(n: int) -> None:
    if n < FEWEST:
        raise ValueError(f"at least {FEWEST} seeds are needed before anything is tested, got {n}.")


def _levels(alpha: float, power: float) -> None:
    share("alpha", alpha)
    if share("power", power) <= alpha:
        raise ValueError(f"power must be above alpha, got power {power} and alpha {alpha}.")
