"""Distance after the best rotation, class by class. N cells, P axes."""

from __future__ import annotations

from typing import ClassVar, Literal, final

import numpy as np

from core.kinds.metric import Metric
from core.params import knob, params
from plugins.metrics._arrays import pair, required
from plugins.metrics.rssd import Rssd


@final
@params
class RssdClass(Metric):
    """RSSD of the cells of each type by themselves, mean or sum over the types of a unit.

    Each type is turned on its own, so that it says how well a type keeps its shape and its place about the origin, and
    not whether the types lie right to each other. LUNA reports mean and sum (Yu et al. 2025,
    doi:10.1101/2025.02.13.638045), where a type of one cell ends in an error; here its RSSD is the difference of two
    distances from the origin. Cells without a type are left out; where none has one, all are one type.
    """

    pool: Literal["mean", "sum"] = knob("mean", "what is taken over types")

    of: ClassVar[str] = "position"
    needs: ClassVar[tuple[str, ...]] = ("cell_type",)
    higher: ClassVar[bool] = False
    best: ClassVar[float] = 0.0
    label: ClassVar[str] = "RSSD by cell type (model units)"

    def score(self, predicted: np.ndarray, true: np.ndarray, type_N: np.ndarray | None = None) -> float:
        """The distance of predicted (N, P) from true (N, P), whose cells are of these types (N,)."""
        predicted_NP, true_NP = pair(predicted, true)
        type_N = required(type_N, "cell_type")
        if (type_N < 0).all():
            type_N = np.zeros(len(true_NP), np.int64)
        each = [Rssd().score(predicted_NP[type_N == t], true_NP[type_N == t]) for t in np.unique(type_N[type_N >= 0])]
        return float(np.sum(each) if self.pool == "sum" else np.mean(each))
