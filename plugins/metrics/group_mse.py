"""Squared error of the means of groups. P groups, F features."""

from __future__ import annotations

from typing import ClassVar, final

import numpy as np

from core.kinds.comparison import Comparison
from core.kinds.metric import Doubling, Graded, GroupMetric
from core.params import knob, params
from plugins.metrics._shifts import predicted_means, shifts, true_means


@final
@params
class GroupMse(GroupMetric):
    """Squared error of each group's predicted mean, mean over features.

    As both sides are measured from the same true reference group, `delta` gives the same numbers; the name
    `mse_delta` stands for tools that read it. Not to be confused with `expression_mse`, which compares items that
    have partners.
    """

    of: ClassVar[str] = "expression"
    higher: ClassVar[bool] = False
    best: ClassVar[float | None] = 0.0
    label: ClassVar[str] = "Squared error of group means"
    doubling: ClassVar[Doubling] = "squared"

    delta: bool = knob(False, "errors of shifts from the reference, under the name of these")

    def column(self) -> str:
        return "mse_delta" if self.delta else "mse"

    def score(self, comparison: Comparison) -> Graded:
        """The mean error over groups."""
        if self.delta:
            predicted_PF, true_PF = shifts(comparison)
        else:
            predicted_PF, true_PF = comparison.once(predicted_means), comparison.truth.once(true_means)
        error_P = np.square(predicted_PF - true_PF).mean(1)
        return Graded.mean(dict(zip(comparison.groups, error_P.tolist(), strict=True)))
