"""Overlap of the features that differ most, truly and as predicted. P groups, F features."""

from __future__ import annotations

from typing import ClassVar, Literal, final

import numpy as np

from core.kinds.comparison import Comparison
from core.kinds.metric import Doubling, Graded, GroupMetric
from core.params import knob, params
from plugins.metrics._differential import Differential, both


@final
@params
class DeOverlap(GroupMetric):
    """Share of the k strongest differing features that prediction and truth have in common.

    Features that differ (false discovery rate below 0.05) are ranked by the size of their fold change. `k` is cut to
    the number that differ: truly for `overlap`, as predicted for `precision`. 0 where none differs, also for a
    perfect prediction of a group without effect: the ceiling tells how much that costs.
    """

    of: ClassVar[str] = "expression"
    higher: ClassVar[bool] = True
    best: ClassVar[float | None] = 1.0
    label: ClassVar[str] = "Overlap of strongest differing genes"
    doubling: ClassVar[Doubling] = "reliability"

    k: int = knob(0, "how many of the strongest; 0 takes all that differ", ge=0)
    of_which: Literal["overlap", "precision"] = knob("overlap", "whose number of differing features cuts k")

    def column(self) -> str:
        return f"{self.of_which}_at_{self.k or 'N'}"

    def score(self, comparison: Comparison) -> Graded:
        """The mean over groups."""
        predicted, true = both(comparison)
        scores = {}
        for i, name in enumerate(comparison.groups):
            found, wanted = ranked(predicted, i), ranked(true, i)
            most = len(wanted) if self.of_which == "overlap" else len(found)
            k = min(self.k or most, most)
            scores[name] = len(np.intersect1d(found[:k], wanted[:k])) / k if k else 0.0
        return Graded.mean(scores)


def ranked(side: Differential, group: int) -> np.ndarray:
    """Features of a group that differ, the largest fold change first; ties in the order of the features."""
    differ = np.flatnonzero(side.differs_PF[group])
    return differ[np.argsort(-np.abs(side.fold_PF[group, differ]), kind="stable")]
