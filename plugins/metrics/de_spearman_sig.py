"""Whether groups with strong effects are predicted to have strong effects. P groups, F features."""

from __future__ import annotations

from typing import ClassVar, final

from core.kinds.comparison import Comparison, Undefined
from core.kinds.metric import Doubling, Graded, GroupMetric
from core.params import params
from plugins.metrics._agreement import spearman
from plugins.metrics._differential import both


@final
@params
class DeSpearmanSig(GroupMetric):
    """Rank correlation over groups of how many features differ, truly and as predicted; one value for all groups.

    Groups in which none truly differs are left out; one number predicted for all scores 0.
    """

    of: ClassVar[str] = "expression"
    higher: ClassVar[bool] = True
    best: ClassVar[float | None] = 1.0
    label: ClassVar[str] = "Spearman of numbers of differing genes"
    doubling: ClassVar[Doubling] = "reliability"

    def score(self, comparison: Comparison) -> Graded:
        """The correlation over groups."""
        predicted, true = both(comparison)
        wanted_P, found_P = true.differs_PF.sum(1), predicted.differs_PF.sum(1)
        some_P = wanted_P > 0
        wanted_P, found_P = wanted_P[some_P], found_P[some_P]
        if len(set(wanted_P.tolist())) < 2:
            raise Undefined("fewer than two true groups differ in how many features differ from the reference")
        return Graded(
            spearman(found_P, wanted_P),
            judged=len(wanted_P),
            over=lambda chosen: spearman(found_P[chosen], wanted_P[chosen]),
        )
