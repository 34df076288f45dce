"""Rank correlation of distance matrices, LUNA's headline score. N cells, P axes, R rows."""

from __future__ import annotations

from typing import ClassVar, final

import numpy as np

from core.kinds.metric import Metric
from core.params import knob, params
from plugins.metrics._arrays import blocks, correlations, distances, judged, onto_extent, pair


@final
@params
class DistanceSpearman(Metric):
    """Whether each cell has the others in the right order of distance: Spearman by cell, median over cells.

    For cell i it is the rank correlation of its row of distances in truth and prediction, the zero distance to itself
    included and ties at their average rank, as in LUNA's evaluation (Yu et al. 2025, doi:10.1101/2025.02.13.638045).
    A cell whose row is constant (all cells on one spot) counts 0. Not to be confused with the mean over cells, which
    is lower where some cells are far off, nor with one correlation over all pairs.

    Of more than 5,792 cells the median is taken over fewer, evenly spread ones (671 of 50,000), each still with its
    distances to all others.

    LUNA stretches the predicted axes to the extent of the true ones before it measures. `rescale` repeats that, for
    numbers to set beside published ones of a model whose axes are those of the truth. It is off by default, because it
    makes the score depend on how the prediction is turned: with it a perfect placement of a long tissue, turned by an
    angle that a loss of distances cannot see, may score .5.
    """

    rescale: bool = knob(False, "stretch each predicted axis to the extent of the true one first, as LUNA does")

    of: ClassVar[str] = "position"
    higher: ClassVar[bool] = True
    best: ClassVar[float] = 1.0
    label: ClassVar[str] = "Spearman of distances (median cell)"

    def score(self, predicted: np.ndarray, true: np.ndarray) -> float:
        """The median rank correlation of predicted (N, P) with true (N, P)."""
        return float(np.median(self.by_cell(predicted, true)))

    def by_cell(self, predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
        """The rank correlation of each cell that is judged, (N,) or fewer: what the median is taken of."""
        predicted_NP, true_NP = pair(predicted, true)
        if self.rescale:
            predicted_NP = onto_extent(predicted_NP, true_NP)
        rows_R = judged(true_NP, predicted_NP)
        return np.concatenate(
            [
                correlations(_ranks(distances(predicted_NP, rows_R[part])), _ranks(distances(true_NP, rows_R[part])))
                for part in blocks(len(rows_R), len(true_NP))
            ]
        )


def _ranks(x_RN: np.ndarray) -> np.ndarray:
    """Ranks inside each row, ties at their average, as `scipy.stats.rankdata`, whose module takes long to import."""
    order_RN = np.argsort(x_RN, axis=1)
    sorted_RN = np.take_along_axis(x_RN, order_RN, axis=1)
    rank_RN = np.broadcast_to(np.arange(1.0, x_RN.shape[1] + 1), x_RN.shape)
    new_RN = sorted_RN[:, 1:] != sorted_RN[:, :-1]
    if not new_RN.all():
        edge_R1 = np.ones((len(x_RN), 1), bool)
        low_RN = np.maximum.accumulate(np.where(np.hstack([edge_R1, new_RN]), rank_RN, 0), axis=1)
        last_RN = np.where(np.hstack([new_RN, edge_R1]), rank_RN, np.inf)
        high_RN = np.minimum.accumulate(last_RN[:, ::-1], axis=1)[:, ::-1]
        rank_RN = (low_RN + high_RN) / 2
    ranks_RN = np.empty(x_RN.shape)
    np.put_along_axis(ranks_RN, order_RN, rank_RN, axis=1)
    return ranks_RN
