"""Mean absolute error of expression. N cells, G genes."""

from __future__ import annotations

from typing import ClassVar, final

import numpy as np

from core.kinds.metric import Metric
from core.params import params
from plugins.metrics._arrays import blocks, same_shape


@final
@params
class ExpressionMae(Metric):
    """Absolute error of expression, mean over all cells and genes of a unit, in model units."""

    of: ClassVar[str] = "expression"
    higher: ClassVar[bool] = False
    best: ClassVar[float] = 0.0
    label: ClassVar[str] = "expression MAE (model units)"

    def score(self, predicted: np.ndarray, true: np.ndarray) -> float:
        """The error of predicted (N, G) against true (N, G)."""
        same_shape(predicted, true)
        total = sum(np.abs(predicted[part].astype(np.float64) - true[part]).sum() for part in blocks(*true.shape))
        return float(total / true.size)
