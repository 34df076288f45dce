"""Whether the features that truly differ are predicted to differ most surely. P groups, F features."""

from __future__ import annotations

from typing import ClassVar, Literal, final

import numpy as np
from scipy.stats import rankdata

from core.kinds.comparison import Comparison
from core.kinds.metric import Doubling, Graded, GroupMetric
from core.params import knob, params
from plugins.metrics._differential import any_differing, both

LEAST = 1e-10
"""smaller false discovery rates are as sure as this one"""


@final
@params
class DeAuc(GroupMetric):
    """Area under the precision-recall or the ROC curve: features that truly differ, ranked by predicted rates.

    Groups in which none or all truly differ are left out. Predictions whose exact zeros are missing score below
    chance, as every feature then differs.
    """

    of: ClassVar[str] = "expression"
    higher: ClassVar[bool] = True
    best: ClassVar[float | None] = 1.0
    label: ClassVar[str] = "Area under the curve of differing genes"
    doubling: ClassVar[Doubling] = "reliability"

    curve: Literal["pr", "roc"] = knob("pr", "precision over recall, or true over false positives")

    def column(self) -> str:
        return f"{self.curve}_auc"

    def score(self, comparison: Comparison) -> Graded:
        """The mean over groups."""
        predicted, true = both(comparison)
        sure_PF = -np.log10(np.clip(predicted.rate_PF, LEAST, 1.0))
        area = average_precision if self.curve == "pr" else roc
        scores = {
            name: area(sure_PF[i], differs_F)
            for i, name in enumerate(comparison.groups)
            if 0 < (differs_F := true.differs_PF[i]).sum() < differs_F.size
        }
        return Graded.mean(any_differing(comparison.truth, scores))


def average_precision(score_n: np.ndarray, positive_n: np.ndarray) -> float:
    """Precision at each threshold, weighted by the recall that the threshold adds; ties fall together."""
    order = np.argsort(-score_n, kind="stable")
    score_n, positive_n = score_n[order], positive_n[order]
    ends = np.flatnonzero(np.r_[score_n[1:] != score_n[:-1], True])
    hits = np.cumsum(positive_n)[ends]
    return float(np.sum(np.diff(np.r_[0, hits]) * hits / (ends + 1)) / positive_n.sum())


def roc(score_n: np.ndarray, positive_n: np.ndarray) -> float:
    """The chance that a positive scores above a negative; ties count a half."""
    positives = int(positive_n.sum())
    above = rankdata(score_n)[positive_n].sum() - positives * (positives + 1) / 2
    return float(above / (positives * (len(positive_n) - positives)))
