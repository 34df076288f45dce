"""Agreement in size of the effects on features that truly differ. P groups, F features."""

from __future__ import annotations

from typing import ClassVar, final

from core.kinds.comparison import Comparison
from core.kinds.metric import Doubling, Graded, GroupMetric
from core.params import params
from plugins.metrics._agreement import spearman
from plugins.metrics._differential import any_differing, both


@final
@params
class DeSpearmanLfcSig(GroupMetric):
    """Rank correlation of log fold changes over the features of a group that truly differ.

    Groups in which fewer than two differ, or all by one amount, are left out.
    """

    of: ClassVar[str] = "expression"
    higher: ClassVar[bool] = True
    best: ClassVar[float | None] = 1.0
    label: ClassVar[str] = "Spearman of fold changes of differing genes"
    doubling: ClassVar[Doubling] = "reliability"

    def score(self, comparison: Comparison) -> Graded:
        """The mean over groups."""
        predicted, true = both(comparison)
        scores = {}
        for i, name in enumerate(comparison.groups):
            differs_F = true.differs_PF[i]
            if len(set(true.fold_PF[i, differs_F].tolist())) > 1:
                scores[name] = spearman(predicted.fold_PF[i, differs_F], true.fold_PF[i, differs_F])
        return Graded.mean(any_differing(comparison.truth, scores))
