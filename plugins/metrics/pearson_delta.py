"""Correlation of predicted with true effects over features. P groups, F features."""

from __future__ import annotations

from typing import ClassVar, final

from core.kinds.comparison import Comparison
from core.kinds.metric import Doubling, Graded, GroupMetric
from core.params import knob, params
from plugins.metrics._agreement import by_group, needs_three
from plugins.metrics._shifts import shifts


@final
@params
class PearsonDelta(GroupMetric):
    """Pearson correlation over features of predicted with true shift from the mean of the reference group.

    A shift that all groups share counts as success here; `pearson_perturbed` leaves it out. A group whose true shift
    is constant is left out, a predicted constant counts 0.
    """

    of: ClassVar[str] = "expression"
    higher: ClassVar[bool] = True
    best: ClassVar[float | None] = 1.0
    label: ClassVar[str] = "Pearson of effects against control"
    doubling: ClassVar[Doubling] = "reliability"

    top: int = knob(0, "features of each group that count: those that truly differ most; 0 counts all", ge=0)

    def __attrs_post_init__(self) -> None:
        needs_three(self.top)

    def column(self) -> str:
        return f"pearson_delta_top{self.top}" if self.top else "pearson_delta"

    def score(self, comparison: Comparison) -> Graded:
        """The mean correlation over groups."""
        return by_group(comparison, *shifts(comparison), self.top)
