"""Who is whose neighbour, and how alike neighbours are. N cells, P axes, G genes, U weights that are not 0."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
from scipy.spatial import cKDTree

from plugins.metrics._arrays import blocks

ROUNDING = 1e-9
"""share by which a distance may differ and still count as equal"""


def neighbour_weights(place_NP: np.ndarray, k: int) -> sp.csr_matrix:
    """Row-standardised weights (N, N): 1 over their number for the neighbours of each cell, 0 for others and itself.

    Neighbours are all cells no farther than the k-th nearest other one, so that ties, as on a grid, are kept whole. A
    lone cell has none. Memory is of the order of N k, more where many cells share one spot.
    """
    place_NP = np.asarray(place_NP, np.float64)
    largest = np.abs(place_NP).max()
    place_NP = place_NP / largest if largest > 0 else place_NP
    cells = len(place_NP)
    if cells == 1:
        return sp.csr_matrix((1, 1))
    tree = cKDTree(place_NP)
    radius_N = tree.query(place_NP, k=min(k, cells - 1) + 1)[0][:, -1]
    found = tree.query_ball_point(place_NP, radius_N * (1 + ROUNDING), return_sorted=True)
    rows_U = np.repeat(np.arange(cells), [len(near) for near in found])
    columns_U = np.concatenate([np.asarray(near, np.int64) for near in found])
    rows_U, columns_U = rows_U[rows_U != columns_U], columns_U[rows_U != columns_U]
    count_N = np.bincount(rows_U, minlength=cells)
    return sp.csr_matrix((1.0 / count_N[rows_U], (rows_U, columns_U)), shape=(cells, cells))


def moran(values_NG: np.ndarray, weights_NN: sp.csr_matrix) -> np.ndarray:
    """Moran's I of each gene (G,), by the textbook (Moran 1950; Cliff and Ord 1973), for any given weights.

    `I = N / sum_ij w_ij * sum_ij w_ij z_i z_j / sum_i z_i^2` with z the values about their mean over cells. No gene is
    averaged with another. A gene that is constant has none and gets 0, and so do all where no cell has a neighbour.
    """
    cells, genes = values_NG.shape
    total = float(weights_NN.sum())
    out_G = np.zeros(genes)
    if total == 0:
        return out_G
    for part in blocks(genes, cells):
        z_NR = np.asarray(values_NG[:, part], np.float64)
        z_NR = z_NR - z_NR[:1]
        z_NR = z_NR - z_NR.mean(0)
        largest_R = np.abs(z_NR).max(0)
        z_NR = np.divide(z_NR, largest_R, out=np.zeros_like(z_NR), where=largest_R > 0)
        power_R = np.square(z_NR).sum(0)
        cross_R = np.einsum("nr,nr->r", z_NR, weights_NN @ z_NR)
        out_G[part] = cells / total * np.divide(cross_R, power_R, out=np.zeros_like(power_R), where=power_R > 0)
    return out_G
