"""Angle of expression, cell by cell. N cells, G genes."""

from __future__ import annotations

from typing import ClassVar, final

import numpy as np

from core.kinds.metric import Metric
from core.params import params
from plugins.metrics._arrays import blocks, divided, same_shape


@final
@params
class CosineCell(Metric):
    """Cosine between each cell's predicted and true expression, mean over the cells of a unit.

    A cell that is 0 throughout in the truth is left out; one predicted so counts 0; a unit without any other cell
    scores 0. In model units, which are deviations from the training mean, it asks whether the same genes are above and
    below their mean. Not to be confused with `pearson_cell`, which takes out each cell's own mean first.
    """

    of: ClassVar[str] = "expression"
    higher: ClassVar[bool] = True
    best: ClassVar[float] = 1.0
    label: ClassVar[str] = "cosine across genes (mean cell)"

    def score(self, predicted: np.ndarray, true: np.ndarray) -> float:
        """The mean cosine of predicted (N, G) and true (N, G)."""
        same_shape(predicted, true)
        filled_N = (true != 0).any(axis=1)
        if not filled_N.any():
            return 0.0
        cosines = [
            np.einsum("rg,rg->r", _directions(predicted[part]), _directions(true[part]))[filled_N[part]]
            for part in blocks(*true.shape)
        ]
        return float(np.clip(np.concatenate(cosines).mean(), -1.0, 1.0))


def _directions(x_RG: np.ndarray) -> np.ndarray:
    """Rows of norm 1, or all 0."""
    x_RG = np.asarray(x_RG, np.float64)
    x_RG = divided(x_RG, np.abs(x_RG).max(1))
    return divided(x_RG, np.linalg.norm(x_RG, axis=1))
