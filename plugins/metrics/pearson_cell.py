"""Correlation of expression over genes, cell by cell. N cells, G genes."""

from __future__ import annotations

from typing import ClassVar, final

import numpy as np

from core.kinds.metric import Metric
from core.params import params
from plugins.metrics._arrays import blocks, correlations, same_shape


@final
@params
class PearsonCell(Metric):
    """Pearson correlation of each cell across genes, mean over the cells of a unit.

    A cell that is constant in the truth is left out; a cell predicted constant counts 0. A unit without a varying
    cell scores 0. Not to be confused with `pearson_gene`, which asks whether a gene's pattern over the tissue is right.
    """

    of: ClassVar[str] = "expression"
    higher: ClassVar[bool] = True
    best: ClassVar[float] = 1.0
    label: ClassVar[str] = "Pearson across genes (mean cell)"

    def score(self, predicted: np.ndarray, true: np.ndarray) -> float:
        """The mean correlation of predicted (N, G) with true (N, G)."""
        same_shape(predicted, true)
        varies_N = true.max(1) > true.min(1)  # their difference may overflow
        if not varies_N.any():
            return 0.0
        return float(
            np.concatenate(
                [correlations(predicted[part], true[part])[varies_N[part]] for part in blocks(*true.shape)]
            ).mean()
        )
