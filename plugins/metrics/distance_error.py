"""Error of pairwise distances. N cells, P axes."""

from __future__ import annotations

from typing import ClassVar, final

import numpy as np

from core.kinds.metric import Metric
from core.params import params
from plugins.metrics._arrays import blocks, distances, judged, pair


@final
@params
class DistanceError(Metric):
    """Root mean square error of the distances between all pairs of cells, in model units.

    The pairs i = j are counted, so its square is the loss `distance_mse` of the unit. It ignores pose, and unlike
    `procrustes` it does not ignore scale. Of more than 5,792 cells fewer, evenly spread ones are taken, with their
    distances to all others.
    """

    of: ClassVar[str] = "position"
    higher: ClassVar[bool] = False
    best: ClassVar[float] = 0.0
    label: ClassVar[str] = "distance error (rms, model units)"

    def score(self, predicted: np.ndarray, true: np.ndarray) -> float:
        """The error of predicted (N, P) against true (N, P)."""
        predicted_NP, true_NP = pair(predicted, true)
        cells, rows_R = len(true_NP), judged(true_NP, predicted_NP)
        total = sum(
            np.square(distances(predicted_NP, rows_R[part]) - distances(true_NP, rows_R[part])).sum()
            for part in blocks(len(rows_R), cells)
        )
        return float(np.sqrt(total / cells / len(rows_R)))
