"""Error of the means of groups. P groups, F features."""

from __future__ import annotations

from typing import ClassVar, Literal, final

import numpy as np

from core.kinds.comparison import Comparison
from core.kinds.metric import Graded, GroupMetric
from core.params import knob, params
from plugins.metrics._shifts import predicted_means, shifts, true_means


@final
@params
class GroupError(GroupMetric):
    """Error of each group's predicted mean, squared or absolute, mean over features.

    As both sides are measured from the same true reference group, `delta` gives the same numbers; the names
    `mse_delta` and `mae_delta` stand for tools that read them. Not to be confused with `expression_mse`, which
    compares items that have partners.
    """

    of: ClassVar[str] = "expression"
    higher: ClassVar[bool] = False
    best: ClassVar[float | None] = 0.0
    label: ClassVar[str] = "Error of group means"

    error: Literal["squared", "absolute"] = knob("squared", "what is averaged over features")
    delta: bool = knob(False, "errors of shifts from the reference, under the name of these")

    def column(self) -> str:
        return ("mse" if self.error == "squared" else "mae") + ("_delta" if self.delta else "")

    def score(self, comparison: Comparison) -> Graded:
        """The mean error over groups."""
        if self.delta:
            predicted_PF, true_PF = shifts(comparison)
        else:
            predicted_PF, true_PF = comparison.once(predicted_means), comparison.truth.once(true_means)
        off_PF = predicted_PF - true_PF
        error_P = (np.square(off_PF) if self.error == "squared" else np.abs(off_PF)).mean(1)
        return Graded.mean(dict(zip(comparison.groups, error_P.tolist(), strict=True)))
