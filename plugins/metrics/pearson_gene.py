"""Correlation of expression over cells, gene by gene. N cells, G genes."""

from __future__ import annotations

from typing import ClassVar, final

import numpy as np

from core.kinds.metric import Metric
from core.params import params
from plugins.metrics._arrays import blocks, correlations, same_shape


@final
@params
class PearsonGene(Metric):
    """Pearson correlation of each gene across the cells of a unit, mean over genes.

    A gene that is constant in the truth has nothing to correlate with and is left out; a gene predicted constant
    counts 0. A unit without a varying gene scores 0. Not to be confused with `pearson_cell`, which is high for any
    prediction that knows which genes are high on average.
    """

    of: ClassVar[str] = "expression"
    higher: ClassVar[bool] = True
    best: ClassVar[float] = 1.0
    label: ClassVar[str] = "Pearson across cells (mean gene)"

    def score(self, predicted: np.ndarray, true: np.ndarray) -> float:
        """The mean correlation of predicted (N, G) with true (N, G)."""
        same_shape(predicted, true)
        varies_G = np.ptp(true, axis=0) > 0
        if not varies_G.any():
            return 0.0
        return float(
            np.concatenate(
                [
                    correlations(predicted[:, part].T, true[:, part].T)[varies_G[part]]
                    for part in blocks(true.shape[1], true.shape[0])
                ]
            ).mean()
        )
