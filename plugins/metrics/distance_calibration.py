"""Whether samples of positions are as varied as the truth is uncertain. K draws, N cells, A anchors, P axes."""

from __future__ import annotations

from typing import ClassVar, final

import numpy as np
from scipy.spatial.distance import cdist

from core.kinds.metric import Metric
from core.params import params
from plugins.metrics._arrays import pair, required, spread
from plugins.metrics._ranks import miscalibration

ANCHORS = 32
"""cells to which distances are taken"""


@final
@params
class DistanceCalibration(Metric):
    """Mean gap between the coverage of central intervals of drawn distances and what it should be.

    `calibration` for positions: as each draw may have a frame of its own, it is asked of the distances of all cells to
    32 evenly spread ones, which no frame changes. The distance of a cell to itself is left out; a lone cell scores 0.
    """

    of: ClassVar[str] = "position"
    needs: ClassVar[tuple[str, ...]] = ("draws",)
    higher: ClassVar[bool] = False
    best: ClassVar[float] = 0.0
    label: ClassVar[str] = "miscalibration of sampled distances"

    def score(self, predicted: np.ndarray, true: np.ndarray, draws_KNP: np.ndarray | None = None) -> float:
        """The gap of draws (K, N, P) around true (N, P); of `predicted` only the shape is looked at."""
        _, true_NP = pair(predicted, true)
        draws_KNP = required(draws_KNP, "draws").astype(np.float64)
        anchor_A = spread(ANCHORS, true_NP, *draws_KNP)
        other_NA = np.arange(len(true_NP))[:, None] != anchor_A
        if not other_NA.any():
            return 0.0
        drawn_KM = np.stack([cdist(x_NP, x_NP[anchor_A])[other_NA] for x_NP in draws_KNP])
        return miscalibration(drawn_KM, cdist(true_NP, true_NP[anchor_A])[other_NA])
