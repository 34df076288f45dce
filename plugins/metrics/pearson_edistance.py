"""Whether groups far from the reference are predicted to be far from it. P groups, F features."""

from __future__ import annotations

from typing import ClassVar, final

from core.kinds.comparison import Comparison, Undefined
from core.kinds.metric import Graded, GroupMetric
from core.params import params
from plugins.metrics._agreement import pearson
from plugins.metrics._between import predicted_energies, true_energies


@final
@params
class PearsonEdistance(GroupMetric):
    """Pearson correlation over groups of the energy distance to the reference, true and predicted; one value for all.

    Not to be confused with `edistance`, between prediction and truth.
    """

    of: ClassVar[str] = "expression"
    higher: ClassVar[bool] = True
    best: ClassVar[float | None] = 1.0
    label: ClassVar[str] = "Pearson of energy distances to control"

    def score(self, comparison: Comparison) -> Graded:
        """The correlation over groups."""
        found_P, wanted_P = comparison.once(predicted_energies), comparison.truth.once(true_energies)
        if not wanted_P.max() > wanted_P.min():
            raise Undefined("all true groups are equally far from the reference")
        return Graded(
            pearson(found_P, wanted_P),
            judged=len(wanted_P),
            over=lambda chosen: pearson(found_P[chosen], wanted_P[chosen]),
        )
