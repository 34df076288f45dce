"""Whether samples of expression are as varied as the truth is uncertain. K draws, N cells, G genes."""

from __future__ import annotations

from typing import ClassVar, final

import numpy as np

from core.kinds.metric import Metric
from core.params import params
from plugins.metrics._arrays import required, same_shape
from plugins.metrics._ranks import miscalibration


@final
@params
class Calibration(Metric):
    """Mean gap between the coverage of central intervals of the draws and what it should be, over all cells and genes.

    0 where the truth looks like one more draw (Gneiting, Balabdaoui and Raftery 2007). It says nothing of sharpness:
    draws from the distribution of all cells are calibrated and useless, so read it beside a score of accuracy. A
    prediction without spread scores worst, (K / 2 intervals that never cover) about 1/2.
    """

    of: ClassVar[str] = "expression"
    needs: ClassVar[tuple[str, ...]] = ("draws",)
    higher: ClassVar[bool] = False
    best: ClassVar[float] = 0.0
    label: ClassVar[str] = "miscalibration of samples"

    def score(self, predicted: np.ndarray, true: np.ndarray, draws_KNG: np.ndarray | None = None) -> float:
        """The gap of draws (K, N, G) around true (N, G); of `predicted` only the shape is looked at."""
        same_shape(predicted, true)
        draws_KNG = required(draws_KNG, "draws")
        return miscalibration(draws_KNG.reshape(len(draws_KNG), -1), np.asarray(true, draws_KNG.dtype).reshape(-1))
