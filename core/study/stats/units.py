"""An interval over seeds and units at once: would the arm also win with other seeds, and on other units?

Shape legend: S seeds, U units (chromosomes, perturbations, slides).

The primary contrast averages units first, so that its interval speaks of new seeds on these very units. Here units are
a sample too. Splits of the data may stand in the place of units, as a second blocking factor beside the seeds, where
every seed ran on every split and the splits' test items do not overlap; for redrawn, overlapping splits of one data set
see `nadeau_bengio`.
"""

from __future__ import annotations

import math

import attrs
import numpy as np

from core.study.stats.scores import FEWEST, ROUNDING, Estimate, Floats, interval, share, spread, t_two_sided, values


@attrs.frozen(kw_only=True)
class TwoLevel:
    """A difference with an interval for new seeds on new units. A field is None where its number does not exist."""

    n_seeds: int
    n_units: int
    seeds_left_out: int
    """seeds without any complete pair, as where a run failed"""
    units_left_out: int
    """units where any of the other seeds misses a score"""
    difference: Estimate | None
    """mean of arm minus baseline; interval from 3 seeds and 3 units"""
    df: float | None
    p: float | None
    sd_seeds: float | None
    """of the difference, between seeds; 0 where the estimate of its square is below 0"""
    sd_units: float | None
    sd_rest: float | None
    """of the difference, within one seed and unit"""


def two_level(base_SU: object, arm_SU: object, *, alpha: float = 0.05) -> TwoLevel:
    """The crossed random-effects interval, paired by seed and by unit.

    Differences d_su = mu + seed_s + unit_u + rest_su, all three random. With mean squares MS of seeds, units and rest,
    var(mean d) = (MS_S + max(MS_U - MS_R, 0)) / (S U), the constrained estimate of Hillis 2007, Stat Med 26:596, who
    has readers and cases where we have seeds and units. Degrees of freedom are Satterthwaite's (1946, Biometrics 2:110)
    over the mean squares that are in the sum; Hillis's own, over MS_S alone, cover too little where units dominate.

    Where the means of all seeds agree, and those of units by no more than the rest explains, nothing tells the error:
    there is no interval and no p, as where all differences are one number.

    Missing scores: seeds without any pair go first, then every unit that a remaining seed misses. Raises ValueError
    unless both arrays have one shape of two axes, for infinite values, and for alpha outside (0, 1).
    """
    share("alpha", alpha)
    base, arm = values("base_SU", base_SU, dims=2), values("arm_SU", arm_SU, dims=2)
    if base.shape != arm.shape:
        raise ValueError(f"base_SU has shape {base.shape} and arm_SU {arm.shape}; they must agree, NaN where missing.")
    difference_SU = arm - base
    complete_SU = ~np.isnan(difference_SU)
    seeds = complete_SU.any(axis=1)
    units = complete_SU[seeds].all(axis=0) & seeds.any()
    difference_SU = difference_SU[seeds][:, units]
    n_seeds, n_units = (int(seeds.sum()), int(units.sum())) if units.any() else (0, 0)
    difference = Estimate(value=float(difference_SU.mean())) if n_seeds else None
    df = p = sd_seeds = sd_units = sd_rest = None
    scale = max(float(np.nanmax(np.abs(x), initial=0.0)) for x in (base, arm))
    if difference is not None and min(n_seeds, n_units) >= FEWEST:
        unit = spread(difference_SU.ravel(), scale)
        # In units of the overall spread, so that squares of very small or large numbers are not lost.
        rounding = ROUNDING * scale / unit if unit else 0.0
        ms_seeds, ms_units, ms_rest = _mean_squares(difference_SU / unit, rounding) if unit else (0.0, 0.0, 0.0)
        sd_seeds = unit * math.sqrt(max(ms_seeds - ms_rest, 0.0) / n_units)
        sd_units = unit * math.sqrt(max(ms_units - ms_rest, 0.0) / n_seeds)
        sd_rest = unit * math.sqrt(ms_rest)
        total = ms_seeds + max(ms_units - ms_rest, 0.0)
        if total > 0:
            parts = (ms_seeds / total) ** 2 / (n_seeds - 1)
            if ms_units > ms_rest:
                parts += (ms_units / total) ** 2 / (n_units - 1)
                parts += (ms_rest / total) ** 2 / ((n_seeds - 1) * (n_units - 1))
            df = 1 / parts
            error = unit * math.sqrt(total / (n_seeds * n_units))
            p = t_two_sided(difference.value / error, df)
            difference = interval(difference.value, error, df, alpha)
    return TwoLevel(
        n_seeds=n_seeds,
        n_units=n_units,
        seeds_left_out=int((~seeds).sum()),
        units_left_out=int(base.shape[1] - n_units),
        difference=difference,
        df=df,
        p=p,
        sd_seeds=sd_seeds,
        sd_units=sd_units,
        sd_rest=sd_rest,
    )


def _mean_squares(d_SU: Floats, rounding: float) -> tuple[float, float, float]:
    """Of seeds, units and rest; 0 where all means agree as closely as scores that are off by `rounding` can."""
    seeds, units = d_SU.shape
    mean_S1, mean_1U, mean = d_SU.mean(axis=1, keepdims=True), d_SU.mean(axis=0, keepdims=True), d_SU.mean()
    rest_SU = d_SU - mean_S1 - mean_1U + mean
    return (
        _square(mean_S1 - mean, rounding) * units / (seeds - 1),
        _square(mean_1U - mean, rounding) * seeds / (units - 1),
        _square(rest_SU, rounding) / ((seeds - 1) * (units - 1)),
    )


def _square(deviation: Floats, rounding: float) -> float:
    return float(np.sum(deviation**2)) if np.abs(deviation).max() > rounding else 0.0
