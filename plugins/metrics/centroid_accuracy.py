"""Whether a predicted centroid is closer to its own true centroid than to others. P groups, F features."""

from __future__ import annotations

from typing import ClassVar, final

import numpy as np
from scipy.spatial.distance import cdist

from core.kinds.comparison import Comparison, Undefined
from core.kinds.metric import Doubling, Graded, GroupMetric
from core.params import params
from plugins.metrics._shifts import predicted_means, true_means


@final
@params
class CentroidAccuracy(GroupMetric):
    """Share of the other groups whose true centroid is further from a predicted centroid than its own.

    Euclidean distances; a tie counts a half, so that one prediction for all groups scores exactly 0.5.
    """

    of: ClassVar[str] = "expression"
    higher: ClassVar[bool] = True
    best: ClassVar[float | None] = 1.0
    label: ClassVar[str] = "Centroid accuracy"
    doubling: ClassVar[Doubling] = "reliability"

    def score(self, comparison: Comparison) -> Graded:
        """The mean over groups."""
        if len(comparison.groups) < 2:
            raise Undefined("one group has no other to be told from")
        away_PP = cdist(comparison.once(predicted_means), comparison.truth.once(true_means))
        own_P = np.diag(away_PP)[:, None]
        share_P = ((away_PP > own_P).sum(1) + ((away_PP == own_P).sum(1) - 1) / 2) / (len(away_PP) - 1)
        return Graded.mean(dict(zip(comparison.groups, share_P.tolist(), strict=True)))
