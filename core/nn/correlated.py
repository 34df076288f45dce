"""Columns that go together. M rows, V columns, U columns at a time, k neighbours."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

BLOCK = 512
"""columns whose correlations with all others are held at a time"""


def most_correlated(rows_MV: np.ndarray | Iterable[np.ndarray], k: int, *, negative: bool = True) -> np.ndarray:
    """The k columns that are most correlated with each column, (V, k) int64, strongest first, -1 for none.

    Pearson's r over rows. A column without variance has no neighbours and is nobody's; of equal correlations the lower
    code comes first. O(M V) memory, of which correlations take no more than `BLOCK` columns at a time.

    Args:
        rows_MV: values; or blocks of rows (m, V).
        k: neighbours; where fewer are left, a row is filled up with -1.
        negative: rank by |r|; else only columns with r > 0 are neighbours.

    Raises:
        ValueError: k is no positive number; fewer than two rows; a value that is not finite.
    """
    if k < 1:
        raise ValueError(f"neighbours of a column are at least one, got {k}")
    blocks = [rows_MV] if isinstance(rows_MV, np.ndarray) else list(rows_MV)
    x_MV = np.concatenate([np.asarray(block, np.float32) for block in blocks]) if blocks else np.empty((0, 0))
    if len(x_MV) < 2:
        raise ValueError(f"correlations take two rows or more, got {len(x_MV)}")
    if not np.isfinite(x_MV).all():
        raise ValueError("values to be correlated are not all finite")
    # What rounding leaves of a constant column is no variance, so constancy is asked of the values themselves.
    flat_V = (x_MV == x_MV[:1]).all(0)
    x_MV = x_MV - x_MV.mean(0, dtype=np.float64).astype(np.float32)
    norm_V = np.sqrt(np.square(x_MV, dtype=np.float64).sum(0))
    x_MV /= np.where(flat_V, 1.0, norm_V).astype(np.float32)
    genes = x_MV.shape[1]
    table_Vk = np.full((genes, k), -1, np.int64)
    for start in range(0, genes, BLOCK):
        rows = np.arange(start, min(start + BLOCK, genes))
        strength_UV = (x_MV[:, rows].T @ x_MV).astype(np.float64)
        if negative:
            strength_UV = np.abs(strength_UV)
        strength_UV[:, flat_V] = 0.0
        strength_UV[flat_V[rows]] = 0.0
        strength_UV[np.arange(len(rows)), rows] = 0.0
        best_Uk = np.argsort(-strength_UV, axis=1, kind="stable")[:, :k]
        found_Uk = np.take_along_axis(strength_UV, best_Uk, 1) > 0
        table_Vk[rows, : best_Uk.shape[1]] = np.where(found_Uk, best_Uk, -1)
    return table_Vk
