"""Whether a prediction holds as many exact zeros as the truth. F features."""

from __future__ import annotations

from typing import ClassVar, final

import numpy as np

from core.kinds.comparison import Comparison
from core.kinds.metric import Doubling, Graded, GroupMetric
from core.params import params


@final
@params
class ZeroRateGap(GroupMetric):
    """Difference of the share of exact zeros, predicted and true, as an absolute value, mean over features.

    A prediction without exact zeros makes every feature differ from the reference, whatever its means.
    """

    of: ClassVar[str] = "expression"
    higher: ClassVar[bool] = False
    best: ClassVar[float | None] = 0.0
    label: ClassVar[str] = "Gap in the share of zeros"
    doubling: ClassVar[Doubling] = "absolute"

    def score(self, comparison: Comparison) -> Graded:
        """The mean over groups."""
        pairs = ((name, comparison.predicted[name], wanted) for name, wanted in comparison.truth.groups.items())
        return Graded.mean({name: float(np.abs(_zeros(a) - _zeros(b)).mean()) for name, a, b in pairs})


def _zeros(table_nF: np.ndarray) -> np.ndarray:
    return (table_nF == 0).mean(0)
