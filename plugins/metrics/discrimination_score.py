"""Whether a predicted effect is closer to its own true effect than to others. P groups, F features."""

from __future__ import annotations

from typing import ClassVar, Literal, final

import numpy as np
from scipy.spatial.distance import cdist

from core.kinds.comparison import Comparison
from core.kinds.metric import Doubling, Graded, GroupMetric
from core.params import knob, params
from plugins.metrics._shifts import shifts

NAMES = {"l1": "cityblock", "l2": "euclidean"}


@final
@params
class DiscriminationScore(GroupMetric):
    """Rank of a group's own true effect among all true effects by distance to the predicted one: 1 - rank / P.

    The best rank is 0, and ties share their mean rank, so that one prediction for all groups scores (P + 1) / (2 P),
    not a half. The feature that stands for a group itself is left out: its own knock-down gives it away.
    """

    of: ClassVar[str] = "expression"
    higher: ClassVar[bool] = True
    best: ClassVar[float | None] = 1.0
    label: ClassVar[str] = "Discrimination of effects"
    doubling: ClassVar[Doubling] = "reliability"

    distance: Literal["l1", "l2", "cosine"] = knob("l1", "how far two effects are apart")

    def column(self) -> str:
        return f"discrimination_score_{self.distance}"

    def score(self, comparison: Comparison) -> Graded:
        """The mean over groups."""
        predicted_PF, true_PF = shifts(comparison)
        features = np.array(comparison.truth.features)
        scores = {}
        for i, name in enumerate(comparison.groups):
            keep_F = features != comparison.truth.own.get(name, name)
            away_P = self._away(true_PF[:, keep_F], predicted_PF[i, keep_F])
            closer, even = (away_P < away_P[i]).sum(), (away_P == away_P[i]).sum() - 1
            scores[name] = float(1 - (closer + even / 2) / len(away_P))
        return Graded.mean(scores)

    def _away(self, true_PF: np.ndarray, predicted_F: np.ndarray) -> np.ndarray:
        """Distances (P,) of one predicted effect to all true ones."""
        if self.distance != "cosine":
            return cdist(true_PF, predicted_F[None], NAMES[self.distance])[:, 0]
        norm_P, norm = np.linalg.norm(true_PF, axis=1), np.linalg.norm(predicted_F)
        scale_P = norm_P * norm
        return 1 - np.divide(true_PF @ predicted_F, scale_P, out=np.zeros(len(true_PF)), where=scale_P > 0)
