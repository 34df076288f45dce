"""Exact zeros of generated expression. M cells, G genes.

A flow gives every gene a value a little off 0, and metrics of differing genes then see expression where there is none:
their tests rank all these values. So values below a threshold of each gene become 0, and the threshold is such that
generated cells of training conditions have the training cells' share of zeros, or generated control cells that of the
true ones.
"""

from __future__ import annotations

import numpy as np


def thresholds(made_MG: np.ndarray, true_MG: np.ndarray) -> np.ndarray:
    """For each gene (G,) the value below which generated cells are 0 as often as the true ones of the same conditions.

    A gene that is 0 in all true cells gets infinity, one that never is gets 0.
    """
    zero_G = (true_MG == 0).mean(0)
    ordered_MG = np.sort(made_MG, axis=0)
    count = len(made_MG)
    below_G = np.rint(zero_G * count).astype(int)
    found_G = np.array([ordered_MG[k, g] if k < count else np.inf for g, k in enumerate(below_G)])
    # Where none is to become 0 the smallest value stays, and below 0 nothing does.
    return np.where(below_G == 0, 0.0, np.maximum(found_G, 0.0)).astype(np.float32)


def with_zeros(raw_MG: np.ndarray, threshold_G: np.ndarray | None) -> np.ndarray:
    """Values below their gene's threshold, and below 0, as exact zeros."""
    values = np.maximum(raw_MG, 0.0)
    return values if threshold_G is None else np.where(values < threshold_G, 0.0, values).astype(np.float32)
