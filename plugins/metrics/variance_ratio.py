"""Whether a prediction varies over items as much as the truth. F features."""

from __future__ import annotations

from typing import ClassVar, final

import numpy as np

from core.kinds.comparison import Comparison
from core.kinds.metric import Graded, GroupMetric
from core.params import params
from plugins.metrics._arrays import centred


@final
@params
class VarianceRatio(GroupMetric):
    """Variance over the items of a group, summed over features: the smaller of predicted and true, over the larger.

    1 where both vary equally; near 0 where the prediction is nearly one item repeated (or varies wildly). Groups of
    one item, or whose true items are all equal, are left out.
    """

    of: ClassVar[str] = "expression"
    higher: ClassVar[bool] = True
    best: ClassVar[float | None] = 1.0
    label: ClassVar[str] = "Variance of cells, ratio"

    def score(self, comparison: Comparison) -> Graded:
        """The mean over groups."""
        scores = {}
        for name, wanted in comparison.truth.groups.items():
            true, found = _variance(wanted), _variance(comparison.predicted[name])
            if true > 0:
                scores[name] = min(true, found) / max(true, found)
        return Graded.mean(scores, "no true group varies")


def _variance(table_nF: np.ndarray) -> float:
    n = len(table_nF)
    return float(np.square(centred(table_nF.astype(np.float64))).sum()) / max(n - 1, 1)
