"""How many of the features that truly differ are found. P groups, F features."""

from __future__ import annotations

from typing import ClassVar, final

from core.kinds.comparison import Comparison
from core.kinds.metric import Doubling, Graded, GroupMetric
from core.params import params
from plugins.metrics._differential import any_differing, both


@final
@params
class DeSigGenesRecall(GroupMetric):
    """Share of the features of a group that truly differ which differ as predicted too, in whatever direction.

    Groups in which none differs are left out. A prediction in which everything differs scores 1: read it beside
    `de_nsig_counts_pred`.
    """

    of: ClassVar[str] = "expression"
    higher: ClassVar[bool] = True
    best: ClassVar[float | None] = 1.0
    label: ClassVar[str] = "Recall of differing genes"
    doubling: ClassVar[Doubling] = "reliability"

    def score(self, comparison: Comparison) -> Graded:
        """The mean over groups."""
        predicted, true = both(comparison)
        scores = {
            name: float(predicted.differs_PF[i, differs_F].mean())
            for i, name in enumerate(comparison.groups)
            if (differs_F := true.differs_PF[i]).any()
        }
        return Graded.mean(any_differing(comparison.truth, scores))
