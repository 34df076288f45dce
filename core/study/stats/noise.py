"""The noise floor: how far the baseline falls from itself.

An A/A comparison: the baseline runs on two blocks of seeds that share none. What differs between the blocks is noise
alone, so an arm whose difference stays below the floor has shown nothing. The blocks share no seeds, so this is not a
paired test, and the floor is above what paired contrasts detect.
"""

from __future__ import annotations

import math

import attrs
import numpy as np

from core.study.stats.scores import (
    Estimate,
    Floats,
    Scores,
    grown,
    interval,
    share,
    spread,
    t_quantile,
    t_two_sided,
    values,
)


@attrs.frozen(kw_only=True)
class NoiseFloor:
    """What two blocks of baseline runs say about noise. A field is None where its number does not exist."""

    n_first: int
    n_second: int
    left_out: int
    """missing scores of both blocks"""
    difference: Estimate | None
    """second minus first block; None where a block is empty, without interval where a block has fewer than 2 scores"""
    sd: float | None
    """pooled over the blocks"""
    p: float | None
    """two-sided, of Student's two-sample t test; a small one says that the blocks were not run alike"""
    floor: float | None
    """differences up to this are within noise, in the metric's own unit"""
    floor_relative: float | None
    """the same from logarithms, as a share upwards; None where any score is 0 or below"""

    @property
    def band_relative(self) -> tuple[float, float] | None:
        """The floor on logarithms as changes down and up: exp(-x) - 1 and exp(x) - 1, so never below -1."""
        up = self.floor_relative
        return None if up is None else (-up / (1 + up), up)


def noise_floor(first_S: Scores, second_S: Scores, alpha: float = 0.05) -> NoiseFloor:
    """t(1 - alpha/2; n + m - 2) s sqrt(1/n + 1/m), s pooled over blocks of n and m seeds (Student 1908).

    Where all scores of both blocks are equal the floor is 0. Raises ValueError for infinite values or alpha outside
    (0, 1).
    """
    share("alpha", alpha)
    first, second = values("first_S", first_S), values("second_S", second_S)
    count = first.size + second.size
    first, second = first[~np.isnan(first)], second[~np.isnan(second)]
    n, m = first.size, second.size
    difference = Estimate(value=float(second.mean() - first.mean())) if n and m else None
    sd = p = floor = floor_relative = None
    if difference is not None and min(n, m) > 1:
        sd = _pooled(first, second)
        reach = math.sqrt(1 / n + 1 / m)
        error = sd * reach
        quantile = t_quantile(1 - alpha / 2, n + m - 2)
        floor = quantile * error
        if error:
            difference = interval(difference.value, error, n + m - 2, alpha)
            p = t_two_sided(difference.value / error, n + m - 2)
        if min(first.min(), second.min()) > 0:
            floor_relative = grown(quantile * reach * _pooled(np.log(first), np.log(second)))
    return NoiseFloor(
        n_first=n,
        n_second=m,
        left_out=count - n - m,
        difference=difference,
        sd=sd,
        p=p,
        floor=floor,
        floor_relative=floor_relative,
    )


def _pooled(first: Floats, second: Floats) -> float:
    freedom = first.size + second.size - 2
    parts = (first.size - 1) * _spread(first) ** 2 + (second.size - 1) * _spread(second) ** 2
    return math.sqrt(parts / freedom)


def _spread(x_S: Floats) -> float:
    return spread(x_S, float(np.abs(x_S).max()))
