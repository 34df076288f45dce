"""Spatial autocorrelation kept. N cells, G genes, P axes."""

from __future__ import annotations

from typing import ClassVar, final

import numpy as np

from core.kinds.metric import Metric
from core.params import knob, params
from plugins.metrics._arrays import required, same_shape
from plugins.metrics._weights import moran, neighbour_weights

ROUNDING = 1e-9


@final
@params
class MoranAgreement(Metric):
    """Whether each gene is as patterned in space as it truly is: agreement of Moran's I over the genes of a unit.

    Moran's I (Moran 1950) is taken gene by gene, of predicted and of true expression, both at the true places of the
    cells and with the same weights: the k nearest cells, each row summing to 1. The two lists are compared by Lin's
    concordance (Lin 1989), `2 cov / (var + var + (mean - mean)^2)`, which is 1 only where all values agree; a
    prediction that is too smooth has too large an I everywhere and is told by it, where a correlation would not see it.
    Genes constant in the truth are left out; without any other, and for a lone cell, the score is 0.
    """

    k: int = knob(6, "number of neighbours; ties beyond it count too", ge=1)

    of: ClassVar[str] = "expression"
    needs: ClassVar[tuple[str, ...]] = ("place",)
    higher: ClassVar[bool] = True
    best: ClassVar[float] = 1.0
    label: ClassVar[str] = "Moran's I by gene (concordance)"

    def score(self, predicted: np.ndarray, true: np.ndarray, place_NP: np.ndarray | None = None) -> float:
        """The concordance for predicted (N, G) and true (N, G) at places (N, P)."""
        same_shape(predicted, true)
        place_NP = required(place_NP, "place")
        varies_G = np.ptp(true, axis=0) > 0
        if not varies_G.any() or len(true) < 2:
            return 0.0
        found_G, wanted_G = self.by_gene(predicted, place_NP)[varies_G], self.by_gene(true, place_NP)[varies_G]
        apart = found_G.var() + wanted_G.var() + (found_G.mean() - wanted_G.mean()) ** 2
        # Where every cell neighbours every other, I is -1 / (N - 1) whatever the values, up to rounding.
        if np.abs(found_G - wanted_G).max() < ROUNDING:
            return 1.0
        return float(np.clip(2 * np.mean((found_G - found_G.mean()) * (wanted_G - wanted_G.mean())) / apart, -1, 1))

    def by_gene(self, values_NG: np.ndarray, place_NP: np.ndarray) -> np.ndarray:
        """Moran's I of each gene (G,): what agreement is taken of, and what a table can show."""
        return moran(values_NG, neighbour_weights(place_NP, self.k))
