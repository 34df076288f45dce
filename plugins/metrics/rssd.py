"""Distance after the best rotation. N cells, P axes."""

from __future__ import annotations

from typing import ClassVar, final

import numpy as np

from core.kinds.metric import Metric
from core.params import params
from plugins.metrics._arrays import pair


@final
@params
class Rssd(Metric):
    """Root of the summed squared distance between cells and truth, after the best rotation or reflection.

    `min_R sqrt(sum_i |p_i - R phat_i|^2)` over orthogonal R (Kabsch 1976), as LUNA reports it: no shift, no scaling,
    and not divided by the number of cells, so that only units of one size compare. LUNA rotates planar data in space,
    which makes reflections free; here they are free in every dimension. Not to be confused with the rmsd of structural
    biology, which shifts first and divides by N.
    """

    of: ClassVar[str] = "position"
    higher: ClassVar[bool] = False
    best: ClassVar[float] = 0.0
    label: ClassVar[str] = "RSSD (model units)"

    def score(self, predicted: np.ndarray, true: np.ndarray) -> float:
        """The distance of predicted (N, P) from true (N, P); for one cell, how much their distances to 0 differ."""
        predicted_NP, true_NP = pair(predicted, true)
        # Sums of large coordinates round by their order, which a small residual shows: one order for all permutations.
        order_N = np.lexsort(np.hstack([true_NP, predicted_NP]).T)
        predicted_NP, true_NP = predicted_NP[order_N], true_NP[order_N]
        left_PP, _, right_PP = np.linalg.svd(predicted_NP.T @ true_NP)
        # From the residual itself: |a|^2 + |b|^2 - 2 tr(S) would lose half the digits near a perfect fit.
        return float(np.linalg.norm(predicted_NP @ (left_PP @ right_PP) - true_NP))
