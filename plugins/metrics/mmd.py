"""Maximum mean discrepancy of predicted and true items. n and m items of a group, F features."""

from __future__ import annotations

from typing import ClassVar, final

from core.kinds.comparison import Comparison
from core.kinds.metric import Doubling, Graded, GroupMetric
from core.params import params
from plugins.metrics._kernels import by_group


@final
@params
class Mmd(GroupMetric):
    """Squared maximum mean discrepancy over four Gaussian kernels, all pairs counted: a distance, never below 0.

    Widths are 0.5, 1, 2 and 4 times the median squared distance of the true items. Above 0 also for another sample of
    the truth; `mmd_u` is not. Gretton et al. 2012, J. Mach. Learn. Res. 13:723.
    """

    of: ClassVar[str] = "expression"
    higher: ClassVar[bool] = False
    best: ClassVar[float | None] = 0.0
    label: ClassVar[str] = "MMD of cells, squared"
    doubling: ClassVar[Doubling] = "squared"

    def score(self, comparison: Comparison) -> Graded:
        """The mean over groups."""
        return by_group(comparison, lambda x, y, both: max(0.0, x.mean + y.mean - 2 * both))
