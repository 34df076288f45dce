"""Neighbourhoods kept. N cells, P axes, R rows."""

from __future__ import annotations

from typing import ClassVar, final

import numpy as np

from core.kinds.metric import Metric
from core.params import knob, params
from plugins.metrics._arrays import blocks, distances, judged, pair


@final
@params
class KnnPreservation(Metric):
    """The share of each cell's k nearest neighbours in the truth that are so in the prediction, mean over cells.

    Neighbours of a cell are all other cells no farther than the k-th nearest other one, so ties are kept whole; the
    share is `|true & predicted| / max(|true|, |predicted|)`, which without ties is `|true & predicted| / k`. A random
    placement scores about k / (N - 1), and so does one with all cells on one spot. With N - 1 < k cells the
    neighbours are all others; a lone cell scores 0. Of more than 5,792 cells the mean is taken over fewer, evenly
    spread ones, whose neighbours are still sought among all.
    """

    k: int = knob(10, "number of neighbours", ge=1)

    of: ClassVar[str] = "position"
    higher: ClassVar[bool] = True
    best: ClassVar[float] = 1.0
    label: ClassVar[str] = "nearest neighbours kept (share)"

    def score(self, predicted: np.ndarray, true: np.ndarray) -> float:
        """The share for predicted (N, P) and true (N, P)."""
        predicted_NP, true_NP = pair(predicted, true)
        cells = len(true_NP)
        if cells == 1:
            return 0.0
        rows_R, total = judged(true_NP, predicted_NP), 0.0
        for part in blocks(len(rows_R), cells):
            found_RN, wanted_RN = self._near(predicted_NP, rows_R[part]), self._near(true_NP, rows_R[part])
            most_R = np.maximum(found_RN.sum(1), wanted_RN.sum(1))
            total += ((found_RN & wanted_RN).sum(1) / most_R).sum()
        return float(total / len(rows_R))

    def _near(self, x_NP: np.ndarray, rows_R: np.ndarray) -> np.ndarray:
        """Whether each cell is a neighbour of the cells of these rows, bool (R, N)."""
        distance_RN = distances(x_NP, rows_R)
        k = min(self.k, len(x_NP) - 1)
        # By index, as another cell on the same spot is just as near as the cell itself.
        distance_RN[np.arange(len(distance_RN)), rows_R] = np.inf
        return distance_RN <= np.partition(distance_RN, k - 1, axis=1)[:, k - 1, None]
