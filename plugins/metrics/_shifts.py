"""Means of groups, and how far they lie from a reference. P groups, F features."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from core.kinds.comparison import Comparison, Truth, Undefined


def means(groups: Mapping[str, np.ndarray]) -> np.ndarray:
    """Means of groups (P, F) in float64."""
    return np.stack([table.mean(0, dtype=np.float64) for table in groups.values()])


def true_means(truth: Truth) -> np.ndarray:
    """Means of the true groups (P, F)."""
    return means(truth.groups)


def predicted_means(comparison: Comparison) -> np.ndarray:
    """Means of the predicted groups (P, F)."""
    return means(comparison.predicted)


def reference_mean(truth: Truth) -> np.ndarray:
    """The mean of the reference group (F,)."""
    return truth.reference.mean(0, dtype=np.float64)


def known_mean(truth: Truth) -> np.ndarray:
    """The mean (F,) of the known group means, each counted once: what all groups have in common.

    Raises:
        Undefined: no group means are known.
    """
    if not truth.known:
        raise Undefined("the group means that the model was trained on are not known")
    return np.stack([*truth.known.values()]).mean(0, dtype=np.float64)


def shifts(comparison: Comparison) -> tuple[np.ndarray, np.ndarray]:
    """Predicted and true group means (P, F) less the mean of the true reference group."""
    origin_F = comparison.truth.once(reference_mean)
    return comparison.once(predicted_means) - origin_F, comparison.truth.once(true_means) - origin_F
