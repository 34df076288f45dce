"""Maximum mean discrepancy of predicted and true items, without bias. n and m items of a group, F features."""

from __future__ import annotations

from typing import ClassVar, final

from core.kinds.comparison import Comparison
from core.kinds.metric import Graded, GroupMetric
from core.params import params
from plugins.metrics._kernels import by_group


@final
@params
class MmdU(GroupMetric):
    """Squared maximum mean discrepancy as in `mmd`, pairs of an item with itself left out.

    0 on average for another sample of the truth and then as often below as above: no distance, but means over groups
    and differences of models are without bias. Groups of fewer than two true items are left
    out; a single predicted item agrees with itself. Gretton et al. 2012, J. Mach. Learn. Res. 13:723.
    """

    of: ClassVar[str] = "expression"
    higher: ClassVar[bool] = False
    best: ClassVar[float | None] = 0.0
    label: ClassVar[str] = "MMD of cells, squared, without bias"
    unbiased: ClassVar[bool] = True

    def score(self, comparison: Comparison) -> Graded:
        """The mean over groups."""
        return by_group(comparison, lambda x, y, both: x.apart + y.apart - 2 * both, fewest=2)
