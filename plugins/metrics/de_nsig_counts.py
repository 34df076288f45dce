"""How many features differ. P groups, F features."""

from __future__ import annotations

from typing import ClassVar, Literal, final

from core.kinds.comparison import Comparison
from core.kinds.metric import Graded, GroupMetric
from core.params import knob, params
from plugins.metrics._differential import both


@final
@params
class DeNsigCounts(GroupMetric):
    """Number of features that differ from the reference, as predicted or truly, mean over groups.

    A description, not a score: the prediction's number should be near the truth's.
    """

    of: ClassVar[str] = "expression"
    higher: ClassVar[bool] = True
    best: ClassVar[float | None] = None
    label: ClassVar[str] = "Number of differing genes"

    side: Literal["pred", "real"] = knob("pred", "whose features are counted")

    def column(self) -> str:
        return f"de_nsig_counts_{self.side}"

    def score(self, comparison: Comparison) -> Graded:
        """The mean number over groups."""
        predicted, true = both(comparison)
        count_P = (predicted if self.side == "pred" else true).differs_PF.sum(1)
        return Graded.mean({name: float(count) for name, count in zip(comparison.groups, count_P, strict=True)})
