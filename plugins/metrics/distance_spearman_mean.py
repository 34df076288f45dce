"""Rank correlation of distance matrices, mean over cells. N cells, P axes."""

from __future__ import annotations

from typing import ClassVar, final

import numpy as np

from core.kinds.metric import Metric
from core.params import knob, params
from plugins.metrics.distance_spearman import DistanceSpearman


@final
@params
class DistanceSpearmanMean(Metric):
    """Spearman of each cell's distances to all others, mean over cells where `distance_spearman` takes the median.

    Cells that are placed far off pull it down, and it lies below the median where there are few of them. LUNA's
    evaluation reports both (Yu et al. 2025, doi:10.1101/2025.02.13.638045).
    """

    rescale: bool = knob(False, "stretch each predicted axis to the extent of the true one first, as LUNA does")

    of: ClassVar[str] = "position"
    higher: ClassVar[bool] = True
    best: ClassVar[float] = 1.0
    label: ClassVar[str] = "Spearman of distances (mean cell)"

    def score(self, predicted: np.ndarray, true: np.ndarray) -> float:
        """The mean rank correlation of predicted (N, P) with true (N, P)."""
        return float(DistanceSpearman(rescale=self.rescale).by_cell(predicted, true).mean())
