"""Gaussian kernels between the items of two samples. n and m items, F features."""

from __future__ import annotations

from collections.abc import Callable

import attrs
import numpy as np

from core.kinds.comparison import Comparison
from core.kinds.metric import Graded
from plugins.metrics._arrays import spread
from plugins.metrics._between import squared_parts

WIDTHS = (0.5, 1.0, 2.0, 4.0)
"""squared widths of the kernels, in medians of the squared distances of the true items"""
LEAST = 1e-12
"""of that median"""
MEDIAN = 2048
"""true items that the median is taken over, where there are more"""


@attrs.frozen
class Similar:
    """Kernels of two samples, mean over the widths."""

    mean: float
    """over all pairs"""
    apart: float
    """over the pairs of different items, within one sample; 1 for a single item"""


def kernels(x_nF: np.ndarray, y_mF: np.ndarray) -> tuple[Similar, Similar, float]:
    """Within x, within y, and the mean between them; widths come from y alone."""
    median = _median(y_mF[spread(MEDIAN, y_mF)])
    within = []
    for table in (x_nF, y_mF):
        # An item is as like itself as can be: the diagonal holds ones.
        total, n = _sum(table, table, median), len(table)
        within.append(Similar(total / n**2, (total - n) / (n * (n - 1)) if n > 1 else 1.0))
    return within[0], within[1], _sum(x_nF, y_mF, median) / (len(x_nF) * len(y_mF))


def _sum(x_nF: np.ndarray, y_mF: np.ndarray, median: float) -> float:
    """Kernels of all pairs, mean over the widths, summed."""
    return sum(
        float(np.exp(part_km / (-2 * width * median)).sum()) / len(WIDTHS)
        for _, part_km in squared_parts(x_nF, y_mF)
        for width in WIDTHS
    )


def _median(y_mF: np.ndarray) -> float:
    """The median squared distance of two different items."""
    if len(y_mF) < 2:
        return LEAST
    all_mm = np.concatenate([part_km for _, part_km in squared_parts(y_mF, y_mF)])
    return max(float(np.median(all_mm[np.triu_indices(len(y_mF), 1)])), LEAST)


def by_group(comparison: Comparison, statistic: Callable[[Similar, Similar, float], float], fewest: int = 1) -> Graded:
    """A statistic of the kernels, group by group; groups with fewer true items are left out."""
    scores = {
        name: statistic(*kernels(comparison.predicted[name], wanted))
        for name, wanted in comparison.truth.groups.items()
        if len(wanted) >= fewest
    }
    return Graded.mean(scores, f"no true group has {fewest} items")
