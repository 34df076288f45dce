"""Which features of a group differ from those of the reference group. P groups, F features, n items of a group, R of
the reference.

All groups are tested against one reference, so its values are sorted once; the ranks that the test asks for are then
found by bisection, for a block of features at a time.
"""

from __future__ import annotations

from collections.abc import Mapping

import attrs
import numpy as np
from scipy.special import ndtr

from core.kinds.comparison import Comparison, Truth, Undefined

ENTRIES = 1 << 22
"""values that are sorted at a time; 32 MB of keys"""
LEVEL = 0.05
"""false discovery rate below which a feature differs"""


@attrs.frozen(eq=False)
class Differential:
    """One side of a comparison, group by group; all arrays (P, F)."""

    p_PF: np.ndarray
    """two-sided p values of the Mann-Whitney test, asymptotic, corrected for ties and for continuity"""
    rate_PF: np.ndarray
    """false discovery rates, by group"""
    fold_PF: np.ndarray
    """log2 of the fold change; infinite where one side has nothing, 0 where neither has"""

    @property
    def differs_PF(self) -> np.ndarray:
        """Where the false discovery rate is below `LEVEL`."""
        return self.rate_PF < LEVEL


def true_differential(truth: Truth) -> Differential:
    """Of the true groups."""
    return differential(truth.groups, truth.reference)


def predicted_differential(comparison: Comparison) -> Differential:
    """Of the predicted groups, against the true reference."""
    return differential(comparison.predicted, comparison.truth.reference)


def both(comparison: Comparison) -> tuple[Differential, Differential]:
    """Predicted and true."""
    return comparison.once(predicted_differential), comparison.truth.once(true_differential)


def any_differing(truth: Truth, groups: dict[str, float]) -> dict[str, float]:
    """The same groups.

    Raises:
        Undefined: there is none.
    """
    if not groups:
        raise Undefined(f"no true group has features that differ from the reference (rate < {LEVEL})")
    return groups


def differential(groups: Mapping[str, np.ndarray], reference_RF: np.ndarray) -> Differential:
    """Test every feature of every group against the reference.

    Args:
        groups: (n, F) float32 each, logarithms log(1 + x).
        reference_RF: the same for the reference.
    """
    p_PF = mann_whitney(groups, reference_RF)
    log_F = _log_of_count(reference_RF.mean(0, dtype=np.float64))
    fold_PF = np.stack([_fold(_log_of_count(table.mean(0, dtype=np.float64)), log_F) for table in groups.values()])
    return Differential(p_PF, benjamini_hochberg(p_PF), fold_PF)


def _log_of_count(mean_F: np.ndarray) -> np.ndarray:
    """log(expm1(mean)) without overflow; -inf where nothing is there."""
    out_F = np.full(mean_F.shape, -np.inf)
    some_F = mean_F > 0
    out_F[some_F] = mean_F[some_F] + np.log(-np.expm1(-mean_F[some_F]))
    return out_F


def _fold(log_F: np.ndarray, reference_F: np.ndarray) -> np.ndarray:
    """log2 of a fold change from natural logarithms; 0 where both are those of nothing."""
    neither_F = np.isneginf(log_F) & np.isneginf(reference_F)
    return (np.where(neither_F, 0.0, log_F) - np.where(neither_F, 0.0, reference_F)) / np.log(2)


def mann_whitney(groups: Mapping[str, np.ndarray], reference_RF: np.ndarray) -> np.ndarray:
    """Two-sided p values (P, F) of the Mann-Whitney test, asymptotic, corrected for ties and for continuity.

    1 where a feature has one value only. Mann and Whitney 1947, Ann. Math. Stat. 18:50.
    """
    rows, features = reference_RF.shape
    largest = max(map(len, groups.values()))
    step = max(1, ENTRIES // (rows + largest))
    p_PF = np.empty((len(groups), features))
    for start in range(0, features, step):
        part = slice(start, min(start + step, features))
        sorted_FR = _keys(reference_RF[:, part])
        ties_F = _tied(sorted_FR)
        for i, table in enumerate(groups.values()):
            p_PF[i, part] = _p(_keys(table[:, part]), sorted_FR, ties_F)
    return p_PF


def _keys(values_nF: np.ndarray) -> np.ndarray:
    """Whole numbers (F, n), ascending in each row, that are ordered as features and, within one, as its values."""
    bits = np.ascontiguousarray((values_nF + np.float32(0)).T).view(np.uint32)  # -0 becomes 0
    ordered = np.where(bits >> 31 == 1, ~bits, bits | np.uint32(1 << 31)).astype(np.int64)
    ordered.sort(axis=1)
    return ordered + (np.arange(len(ordered), dtype=np.int64)[:, None] << 32)


def _tied(keys_Fn: np.ndarray) -> np.ndarray:
    """The sum of t^3 - t over runs of t equal values, (F,)."""
    starts, lengths = _runs(keys_Fn)
    return np.bincount(starts // keys_Fn.shape[1], lengths**3 - lengths, len(keys_Fn))


def _runs(keys_Fn: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First positions and lengths of runs of equal keys, in the flat array."""
    flat = keys_Fn.ravel()
    starts = np.flatnonzero(np.r_[True, flat[1:] != flat[:-1]])
    return starts, np.diff(np.r_[starts, len(flat)]).astype(np.float64)


def _p(keys_Fn: np.ndarray, sorted_FR: np.ndarray, ties_F: np.ndarray) -> np.ndarray:
    (features, n), rows = keys_Fn.shape, sorted_FR.shape[1]
    starts, lengths = _runs(keys_Fn)
    known, asked = sorted_FR.ravel(), keys_Fn.ravel()[starts]
    feature = starts // n
    below = np.searchsorted(known, asked, "left") - feature * rows
    equal = np.searchsorted(known, asked, "right") - feature * rows - below
    u_F = np.bincount(feature, lengths * (below + 0.5 * equal), features)
    together = equal + lengths
    ties_F = ties_F + np.bincount(feature, together**3 - together - (equal.astype(np.float64) ** 3 - equal), features)
    total, middle = n + rows, n * rows / 2
    spread_F = np.sqrt(np.maximum(n * rows / 12 * (total + 1 - ties_F / (total * (total - 1))), 0.0))
    away_F = np.maximum(u_F, n * rows - u_F) - middle - 0.5
    z_F = np.divide(away_F, spread_F, out=np.full(features, -np.inf), where=spread_F > 0)
    return np.minimum(2 * ndtr(-z_F), 1.0)


def benjamini_hochberg(p_PF: np.ndarray) -> np.ndarray:
    """False discovery rates of each row (P, F). Benjamini and Hochberg 1995, J. R. Stat. Soc. B 57:289."""
    order_PF = np.argsort(p_PF, axis=1, kind="stable")
    features = p_PF.shape[1]
    scaled_PF = np.take_along_axis(p_PF, order_PF, 1) * (features / np.arange(1, features + 1))
    least_PF = np.minimum(np.minimum.accumulate(scaled_PF[:, ::-1], 1)[:, ::-1], 1.0)
    out_PF = np.empty_like(p_PF)
    np.put_along_axis(out_PF, order_PF, least_PF, 1)
    return out_PF
