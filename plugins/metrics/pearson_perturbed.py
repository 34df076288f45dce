"""Correlation of what sets each group apart from what all groups share. P groups, F features."""

from __future__ import annotations

from typing import ClassVar, final

import numpy as np

from core.kinds.comparison import Comparison
from core.kinds.metric import Doubling, Graded, GroupMetric
from core.params import knob, params
from plugins.metrics._agreement import by_group, needs_three
from plugins.metrics._shifts import known_mean, predicted_means, true_means

ROUNDING = 1e-6
"""differences below that share of the largest mean are those of single precision"""


@final
@params
class PearsonPerturbed(GroupMetric):
    """Pearson correlation over features of predicted with true distance from the mean of the trained groups' means.

    The shift that every group shares earns nothing, unlike in `pearson_delta`; the mean of all groups, predicted for
    each, scores 0. Needs the means of the groups that the model was trained on.
    """

    of: ClassVar[str] = "expression"
    higher: ClassVar[bool] = True
    best: ClassVar[float | None] = 1.0
    label: ClassVar[str] = "Pearson of effects against the perturbed mean"
    doubling: ClassVar[Doubling] = "reliability"

    top: int = knob(0, "features of each group that count: those that truly differ most; 0 counts all", ge=0)

    def __attrs_post_init__(self) -> None:
        needs_three(self.top)

    def column(self) -> str:
        return f"pearson_perturbed_top{self.top}" if self.top else "pearson_perturbed"

    def score(self, comparison: Comparison) -> Graded:
        """The mean correlation over groups."""
        origin_F = comparison.truth.once(known_mean)
        predicted_PF, true_PF = comparison.once(predicted_means), comparison.truth.once(true_means)
        return by_group(comparison, _apart(predicted_PF, origin_F), _apart(true_PF, origin_F), self.top)


def _apart(mean_PF: np.ndarray, origin_F: np.ndarray) -> np.ndarray:
    """Differences of means from an origin, all 0 where cells of single precision could not tell them apart.

    The mean of all groups, predicted for each, is the origin but for rounding, and a correlation of rounding says
    anything between -1 and 1.
    """
    apart_PF = mean_PF - origin_F
    least = ROUNDING * max(float(np.abs(origin_F).max(initial=0.0)), np.finfo(np.float64).tiny)
    return np.where(np.abs(apart_PF).max(1, keepdims=True) > least, apart_PF, 0.0)
