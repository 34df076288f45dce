"""Cell types found again in predicted expression. N cells, G genes, C clusters and types."""

from __future__ import annotations

from typing import ClassVar, Literal, final

import numpy as np
import scipy.sparse as sp
from scipy.optimize import linear_sum_assignment

from core.kinds.metric import Metric
from core.params import knob, params
from plugins.metrics._arrays import centred, required, same_shape, spread

MOST = 8192
"""cells that are clustered; of more, evenly spread ones"""
STARTS, ROUNDS = 4, 50
"""starts of k-means, of which the tightest result is kept, and the most rounds of each"""


@final
@params
class ClusterAgreement(Metric):
    """How well clusters of predicted expression agree with the known types of the cells.

    Predicted expression is cut by k-means (k-means++ starts, seed fixed) into as many clusters as the unit has types.
    Agreement is the adjusted Rand index (Hubert and Arabie 1985), normalised mutual information (Strehl and Ghosh
    2002, arithmetic mean) or accuracy: the share of cells in the right cluster under the best one-to-one matching of
    clusters with types (Kuhn 1955), which does not depend on how clusters are numbered. Cells without a type are left
    out; a unit with fewer than two types scores 0. It can be no better than the types are separable in expression, so
    read it beside the number that the truth itself reaches, and not against 1.
    """

    by: Literal["ari", "nmi", "accuracy"] = knob("ari", "the index of agreement")

    of: ClassVar[str] = "expression"
    needs: ClassVar[tuple[str, ...]] = ("cell_type",)
    higher: ClassVar[bool] = True
    best: ClassVar[float] = 1.0
    label: ClassVar[str] = "clusters against types"

    def score(self, predicted: np.ndarray, true: np.ndarray, type_N: np.ndarray | None = None) -> float:
        """The agreement of clusters of predicted (N, G) with types (N,); of `true` only the shape is looked at."""
        same_shape(predicted, true)
        type_N = required(type_N, "cell_type")
        x_NG, type_N = np.asarray(predicted[type_N >= 0], np.float64), type_N[type_N >= 0]
        if len(np.unique(type_N)) < 2:
            return 0.0
        # k-means starts from items by their number, so that these are sorted first.
        chosen = spread(MOST, x_NG[:, :4], type_N[:, None].astype(np.float64))
        chosen = chosen[np.lexsort(np.hstack([type_N[chosen, None], x_NG[chosen][:, ::-1]]).T)]
        x_NG, type_N = x_NG[chosen], np.unique(type_N[chosen], return_inverse=True)[1]
        return agreement(clusters(x_NG, int(type_N.max()) + 1), type_N, self.by)


def clusters(x_NG: np.ndarray, count: int) -> np.ndarray:
    """Cluster of each item (N,) by k-means (Lloyd 1982; starts by Arthur and Vassilvitskii 2007), the seed fixed.

    Fewer than `count` where items differ in fewer ways.
    """
    x_NG = centred(x_NG)
    largest = np.abs(x_NG).max()
    x_NG = x_NG / largest if largest > 0 else x_NG
    rng = np.random.default_rng(0)
    found = [_lloyd(x_NG, _starts(x_NG, min(count, len(x_NG)), rng)) for _ in range(STARTS)]
    return min(found, key=lambda one: one[1])[0]


def _starts(x_NG: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Items drawn far apart: each by its squared distance to the nearest one drawn before."""
    chosen = [int(rng.integers(len(x_NG)))]
    apart_N = np.square(x_NG - x_NG[chosen[0]]).sum(1)
    while len(chosen) < count and apart_N.sum() > 0:
        chosen.append(int(rng.choice(len(x_NG), p=apart_N / apart_N.sum())))
        apart_N = np.minimum(apart_N, np.square(x_NG - x_NG[chosen[-1]]).sum(1))
    return x_NG[chosen]


def _lloyd(x_NG: np.ndarray, centre_CG: np.ndarray) -> tuple[np.ndarray, float]:
    """Clusters from these centres on, and the sum of squares within them."""
    label_N = np.full(len(x_NG), -1)
    for _ in range(ROUNDS):
        # Without each item's own square, which changes no order.
        fresh_N = (np.square(centre_CG).sum(1) - 2 * x_NG @ centre_CG.T).argmin(1)
        if np.array_equal(fresh_N, label_N):
            break
        label_N = fresh_N
        members = sp.csr_matrix((np.ones(len(x_NG)), (label_N, np.arange(len(x_NG)))), (len(centre_CG), len(x_NG)))
        count_C = np.bincount(label_N, minlength=len(centre_CG))
        # A centre that lost all its items stays where it was.
        moved_CG = members @ x_NG / np.maximum(count_C, 1)[:, None]
        centre_CG = np.where(count_C[:, None] > 0, moved_CG, centre_CG)
    return label_N, float(np.square(x_NG - centre_CG[label_N]).sum())


def agreement(found_N: np.ndarray, wanted_N: np.ndarray, by: str) -> float:
    """An index of agreement of two partitions, codes from 0 on."""
    table_CC = np.zeros((found_N.max() + 1, wanted_N.max() + 1))
    np.add.at(table_CC, (found_N, wanted_N), 1)
    if by == "accuracy":
        return float(table_CC[linear_sum_assignment(table_CC, maximize=True)].sum() / len(wanted_N))
    return _rand(table_CC) if by == "ari" else _information(table_CC)


def _rand(table_CC: np.ndarray) -> float:
    """Pairs of items that agree, less what chance gives, over what is left to gain."""
    both, one, other, total = (
        (counts * (counts - 1)).sum() / 2 for counts in (table_CC, table_CC.sum(0), table_CC.sum(1), table_CC.sum())
    )
    chance, most = one * other / max(total, 1), (one + other) / 2
    return float((both - chance) / (most - chance)) if most > chance else 1.0


def _information(table_CC: np.ndarray) -> float:
    share_CC = table_CC / table_CC.sum()
    one, other = share_CC.sum(0), share_CC.sum(1)
    mean = (_entropy(one) + _entropy(other)) / 2
    return float((2 * mean - _entropy(share_CC)) / mean) if mean > 0 else 0.0


def _entropy(share: np.ndarray) -> float:
    share = share[share > 0]
    return float(-(share * np.log(share)).sum())
