"""Agreement in sign of the effects on features that truly differ. P groups, F features."""

from __future__ import annotations

from typing import ClassVar, final

import numpy as np

from core.kinds.comparison import Comparison
from core.kinds.metric import Doubling, Graded, GroupMetric
from core.params import params
from plugins.metrics._differential import any_differing, both


@final
@params
class DeDirectionMatch(GroupMetric):
    """Share of the features of a group that truly differ whose predicted fold change has the true sign.

    Groups in which none differs are left out.
    """

    of: ClassVar[str] = "expression"
    higher: ClassVar[bool] = True
    best: ClassVar[float | None] = 1.0
    label: ClassVar[str] = "Direction of differing genes"
    doubling: ClassVar[Doubling] = "reliability"

    def score(self, comparison: Comparison) -> Graded:
        """The mean over groups."""
        predicted, true = both(comparison)
        same_PF = np.sign(predicted.fold_PF) == np.sign(true.fold_PF)
        scores = {
            name: float(same_PF[i, differs_F].mean())
            for i, name in enumerate(comparison.groups)
            if (differs_F := true.differs_PF[i]).any()
        }
        return Graded.mean(any_differing(comparison.truth, scores))
