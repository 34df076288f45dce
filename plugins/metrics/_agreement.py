"""Agreement of predicted with true effects. P groups, F features."""

from __future__ import annotations

import numpy as np
from scipy.stats import rankdata

from core.kinds.comparison import Comparison
from core.kinds.metric import Graded
from plugins.metrics._arrays import correlations
from plugins.metrics._differential import true_differential


def by_group(comparison: Comparison, predicted_PF: np.ndarray, true_PF: np.ndarray, top: int = 0) -> Graded:
    """Pearson correlation over the features of each group that count; groups that are constant there are left out."""
    scores = {}
    for i, name in enumerate(comparison.groups):
        chosen = strongest(comparison, i, top) if top else slice(None)
        true_F = true_PF[i, chosen]
        if len(true_F) > 1 and true_F.max() > true_F.min():
            scores[name] = pearson(predicted_PF[i, chosen], true_F)
    return Graded.mean(scores, "no true effect varies over the features")


def needs_three(top: int) -> None:
    """Raise a ValueError where a correlation over so many features says nothing."""
    if top in (1, 2):
        raise ValueError(f"top = {top}: a correlation over fewer than 3 features says nothing; give 0 or at least 3")


def pearson(a_n: np.ndarray, b_n: np.ndarray) -> float:
    """Pearson correlation; 0 where one side is constant."""
    return float(correlations(a_n[None], b_n[None])[0])


def spearman(a_n: np.ndarray, b_n: np.ndarray) -> float:
    """Rank correlation, ties at their mean rank; 0 where one side is constant. Infinities have their rank."""
    return pearson(rankdata(a_n), rankdata(b_n))


def strongest(comparison: Comparison, group: int, count: int) -> np.ndarray:
    """Features (k,) by which a true group differs most from the reference: the least p values, then the largest folds.

    Features that neither side has, or both to the same mean, are never chosen.
    """
    found = comparison.truth.once(true_differential)
    present_F = np.flatnonzero(found.fold_PF[group] != 0)
    order = np.lexsort((-np.abs(found.fold_PF[group, present_F]), found.p_PF[group, present_F]))
    return present_F[order[:count]]
