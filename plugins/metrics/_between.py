"""Distances between the items of two samples. n and m items, F features."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from core.kinds.comparison import Comparison, Truth
from plugins.metrics._arrays import blocks

SAME = 1e-12
"""squared distances below this share of the squared lengths are rounding, and 0"""


def squared_parts(x_nF: np.ndarray, y_mF: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Squared Euclidean distances in float64, some rows of x (k, m) at a time; exactly 0 between equal items."""
    x_nF, y_mF = x_nF.astype(np.float64), y_mF.astype(np.float64)
    x_n, y_m = np.square(x_nF).sum(1), np.square(y_mF).sum(1)
    for part in blocks(len(x_nF), len(y_mF)):
        length_km = x_n[part, None] + y_m
        out_km = length_km - 2 * (x_nF[part] @ y_mF.T)
        out_km[out_km <= SAME * length_km] = 0.0
        yield part, out_km


def mean_distance(x_nF: np.ndarray, y_mF: np.ndarray) -> float:
    """The mean Euclidean distance of all n * m pairs."""
    total = sum(float(np.sqrt(part_km).sum()) for _, part_km in squared_parts(x_nF, y_mF))
    return total / (len(x_nF) * len(y_mF))


def energy(x_nF: np.ndarray, y_mF: np.ndarray, within_y: float | None = None) -> float:
    """The energy distance of two samples, all pairs counted, those of an item with itself too.

    Szekely and Rizzo 2013, J. Stat. Plan. Inference 143:1249. `within_y` is the mean distance within y, where known.
    """
    within_y = mean_distance(y_mF, y_mF) if within_y is None else within_y
    return max(0.0, 2 * mean_distance(x_nF, y_mF) - mean_distance(x_nF, x_nF) - within_y)


def within_reference(truth: Truth) -> float:
    """The mean distance within the reference group."""
    return mean_distance(truth.reference, truth.reference)


def true_energies(truth: Truth) -> np.ndarray:
    """Energy distances (P,) of the true groups to the reference."""
    return _energies(truth.groups, truth)


def predicted_energies(comparison: Comparison) -> np.ndarray:
    """Energy distances (P,) of the predicted groups to the true reference."""
    return _energies(comparison.predicted, comparison.truth)


def _energies(groups: Mapping[str, np.ndarray], truth: Truth) -> np.ndarray:
    within = truth.once(within_reference)
    return np.array([energy(table, truth.reference, within) for table in groups.values()])
