"""Gaussian kernels between the items of two samples. n and m items, F features."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from core.kinds.comparison import Comparison
from core.kinds.metric import Graded
from plugins.metrics._between import squared

WIDTHS = (0.5, 1.0, 2.0, 4.0)
"""squared widths of the kernels, in medians of the squared distances of the true items"""
LEAST = 1e-12
"""of that median"""

Kernels = tuple[np.ndarray, np.ndarray, np.ndarray]


def kernels(x_nF: np.ndarray, y_mF: np.ndarray) -> Kernels:
    """Mean kernels within x (n, n), within y (m, m) and between (n, m); widths from y alone."""
    apart = squared(x_nF, x_nF), squared(y_mF, y_mF), squared(x_nF, y_mF)
    off_diagonal = apart[1][~np.eye(len(y_mF), dtype=bool)]
    median = max(float(np.median(off_diagonal)) if off_diagonal.size else 0.0, LEAST)
    xx, yy, xy = (np.mean([np.exp(-d / (2 * width * median)) for width in WIDTHS], 0) for d in apart)
    return xx, yy, xy


def by_group(
    comparison: Comparison,
    statistic: Callable[[np.ndarray, np.ndarray, np.ndarray], float],
    fewest: int = 1,
) -> Graded:
    """A statistic of the kernels, group by group; groups with fewer true items are left out."""
    scores = {
        name: float(statistic(*kernels(comparison.predicted[name], wanted)))
        for name, wanted in comparison.truth.groups.items()
        if len(wanted) >= fewest
    }
    return Graded.mean(scores, f"no true group has {fewest} items")
