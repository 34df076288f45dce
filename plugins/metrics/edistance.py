"""Energy distance between predicted and true items. n items of a group, F features."""

from __future__ import annotations

from typing import ClassVar, final

import numpy as np

from core.kinds.comparison import Comparison, Truth
from core.kinds.metric import Doubling, Graded, GroupMetric
from core.params import params
from plugins.metrics._between import energy, mean_distance


@final
@params
class Edistance(GroupMetric):
    """Energy distance between the predicted and the true items of a group (Euclidean, all pairs counted).

    Above 0 also for another sample of the truth, by an amount that falls with the number of items: read it beside the
    ceiling. Szekely and Rizzo 2013, J. Stat. Plan. Inference 143:1249.
    """

    of: ClassVar[str] = "expression"
    higher: ClassVar[bool] = False
    best: ClassVar[float | None] = 0.0
    label: ClassVar[str] = "Energy distance of cells"
    doubling: ClassVar[Doubling] = "squared"

    def score(self, comparison: Comparison) -> Graded:
        """The mean over groups."""
        within_P = comparison.truth.once(_within)
        pairs = zip(comparison.predicted.items(), comparison.truth.groups.values(), within_P, strict=True)
        return Graded.mean({name: energy(found, wanted, within) for (name, found), wanted, within in pairs})


def _within(truth: Truth) -> np.ndarray:
    return np.array([mean_distance(table, table) for table in truth.groups.values()])
