"""Difference of shape. N cells, P axes."""

from __future__ import annotations

from typing import ClassVar, final

import numpy as np

from core.kinds.metric import Metric
from core.params import params
from plugins.metrics._arrays import centred, pair


@final
@params
class Procrustes(Metric):
    """What is left of the squared difference after the best shift, scale, rotation and reflection, 0 to 1.

    Both shapes are centred and scaled to unit norm, then the prediction is rotated and scaled to fit (Gower 1975); the
    value is that of `scipy.spatial.procrustes`. A prediction with all cells on one spot has no shape and scores 1,
    where scipy raises; so does any prediction of a unit whose truth is one spot.
    """

    of: ClassVar[str] = "position"
    higher: ClassVar[bool] = False
    best: ClassVar[float] = 0.0
    label: ClassVar[str] = "Procrustes disparity (0 to 1)"

    def score(self, predicted: np.ndarray, true: np.ndarray) -> float:
        """The disparity of predicted (N, P) and true (N, P)."""
        shapes = [centred(x_NP) for x_NP in pair(predicted, true)]
        if not all(shape_NP.any() for shape_NP in shapes):
            return 1.0
        # By the largest entry first, so that squares neither overflow nor vanish.
        shapes = [shape_NP / np.abs(shape_NP).max() for shape_NP in shapes]
        predicted_NP, true_NP = (shape_NP / np.linalg.norm(shape_NP) for shape_NP in shapes)
        overlap = np.linalg.svd(predicted_NP.T @ true_NP, compute_uv=False).sum()
        return float(np.clip(1.0 - overlap**2, 0.0, 1.0))
