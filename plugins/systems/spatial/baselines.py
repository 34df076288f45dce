"""What can be had without a model: trivial placements and imputations that every score stands beside.

Training cells come with expression and position in model units; test cells are those of one unit. A baseline takes
positions as they are: where sections do not share a frame, those that use positions of other sections know little.

n training and m test cells, G genes, P axes of space, F features, R components, k neighbours, T outputs.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations_with_replacement
from typing import final

import attrs
import numpy as np
from scipy.spatial import cKDTree
from scipy.spatial.distance import cdist

NOWHERE = "mean position", "random placement"
ANYTHING = "mean expression", "random cell"
TRIVIAL = (*NOWHERE, *ANYTHING)
"""baselines that use nothing of the cell that they are asked about"""
NEIGHBOURS = 15
COMPONENTS = 50
"""principal components in which cells are compared; with no more genes than that it is the expression space itself"""
EXACT = 4096
"""a larger eigenproblem is not solved: with more cells and more genes than this, the most variable genes are used"""
LOW = 8
"""dimensions up to which a tree finds neighbours faster than a look at all"""
DEGREE = 3
PENALTIES = np.geomspace(1e-5, 1e4, 19)
"""ridge penalties tried, in units of the mean squared singular value of the features"""
ENTRIES = 1 << 22
"""entries of a float64 block; 32 MB"""


def place(
    train_expression: np.ndarray, train_position: np.ndarray, test_expression: np.ndarray, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Positions (m, P) float32 of test cells by their expression, by name of the baseline.

    - `mean position`: every cell at the mean training position;
    - `random placement`: each at the position of a random training cell;
    - `nearest cell`: at that of the nearest training cell, in the leading 50 principal components of expression;
    - `nearest 15 cells`: mean of the 15 nearest there, weighted by 1 / distance;
    - `nearest 15 cells, even`: their plain mean;
    - `ridge`: linear in expression, penalty by generalised cross-validation.

    Args:
        train_expression: (n, G).
        train_position: (n, P).
        test_expression: (m, G).
        rng: draws the random placement.

    Raises:
        ValueError: no training cell, or the arrays do not fit each other.
    """
    _check(train_expression, train_position, test_expression)
    genes = _variable(train_expression)
    spectrum = Spectrum.of(train_expression[:, genes])
    test = test_expression[:, genes]
    near, far = spectrum.scores(train_expression[:, genes]), spectrum.scores(test)
    return {
        **_constant(*NOWHERE, train_position, len(test), rng),
        **_neighbours(near, train_position, far),
        "ridge": _ridge(spectrum, train_expression[:, genes], train_position, test),
    }


def impute(
    train_expression: np.ndarray, train_position: np.ndarray, test_position: np.ndarray, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Expression (m, G) float32 of test cells by their position, by name of the baseline.

    - `mean expression`: that of all training cells, for every cell;
    - `random cell`: the expression of a random training cell;
    - `nearest cell`: that of the nearest training cell in space;
    - `nearest 15 cells`: mean of the 15 nearest in space, weighted by 1 / distance;
    - `nearest 15 cells, even`: their plain mean;
    - `ridge`: linear in products of up to three coordinates, penalty by generalised cross-validation; test positions
      outside the range of the training ones are moved to its border.

    Args:
        train_expression: (n, G).
        train_position: (n, P).
        test_position: (m, P).
        rng: draws the random cells.

    Raises:
        ValueError: no training cell, or the arrays do not fit each other.
    """
    _check(train_position, train_expression, test_position)
    low_P, high_P = train_position.min(0), train_position.max(0)
    # Into [-1, 1] by the training range; beyond it the fitted polynomial would soon leave all reason.
    near, far = (
        _powers(2 * (np.clip(position, low_P, high_P) - low_P) / np.maximum(high_P - low_P, 1e-12) - 1)
        for position in (train_position, test_position)
    )
    return {
        **_constant(*ANYTHING, train_expression, len(test_position), rng),
        **_neighbours(train_position, train_expression, test_position),
        "ridge": _ridge(Spectrum.of(near), near, train_expression, far),
    }


@final
@attrs.frozen(eq=False)
class Spectrum:
    """Principal axes of features: the eigenvectors of the smaller of the two Gram matrices, all that are not noise."""

    mean_F: np.ndarray
    axes_FR: np.ndarray
    """orthonormal columns, largest first"""
    size_R: np.ndarray
    """squared singular values of the centred features"""
    rows: int

    @classmethod
    def of(cls, x_nF: np.ndarray) -> Spectrum:
        """Decompose n feature rows, exactly and without randomness, in O(min(n, F)^3) time."""
        rows, features = x_nF.shape
        mean_F = x_nF.mean(0, dtype=np.float64)
        side = min(rows, features)
        gram = np.zeros((side, side))
        if features <= rows:
            for part in _blocks(rows, features):
                block = x_nF[part] - mean_F
                gram += block.T @ block
        else:
            for part in _blocks(features, rows):
                block = x_nF[:, part] - mean_F[part]
                gram += block @ block.T
        size_R, axes = (a[..., ::-1] for a in np.linalg.eigh(gram))
        # Squaring into the Gram matrix loses half the digits: what lies below is rounding.
        kept = size_R > 1e-10 * max(size_R[0], np.finfo(float).tiny)
        size_R, axes = size_R[kept], axes[:, kept]
        if features > rows:
            axes_FR = np.empty((features, len(size_R)))
            for part in _blocks(features, rows):
                axes_FR[part] = (x_nF[:, part] - mean_F[part]).T @ axes / np.sqrt(size_R)
            axes = axes_FR
        return cls(mean_F, np.ascontiguousarray(axes), size_R, rows)

    def scores(self, x_mF: np.ndarray) -> np.ndarray:
        """Rows in the leading components, (m, up to COMPONENTS); all 0 where the training rows do not differ."""
        if len(self.size_R) == 0:
            return np.zeros((len(x_mF), 1))
        return self.project(x_mF, self.axes_FR[:, :COMPONENTS])

    def project(self, x_mF: np.ndarray, axes_FT: np.ndarray) -> np.ndarray:
        """Centred rows times `axes_FT`."""
        out_mT = np.empty((len(x_mF), axes_FT.shape[1]))
        for part in _blocks(*x_mF.shape):
            out_mT[part] = (x_mF[part] - self.mean_F) @ axes_FT
        return out_mT


def _ridge(spectrum: Spectrum, x_nF: np.ndarray, y_nT: np.ndarray, test_mF: np.ndarray) -> np.ndarray:
    """Ridge regression with intercept; one penalty for all outputs, by generalised cross-validation.

    With U S V' the centred features and h = s^2 / (s^2 + penalty), GCV is `residual(h) / (n - 1 - sum h)^2` (Golub,
    Heath and Wahba 1979), where the residual is `|Y|^2 - sum_r (1 - (1 - h_r)^2) |u_r' Y|^2`.
    """
    mean_T = y_nT.mean(0, dtype=np.float64)
    cross_FT = np.zeros((x_nF.shape[1], y_nT.shape[1]))
    power = 0.0
    for part in _blocks(len(x_nF), x_nF.shape[1] + y_nT.shape[1]):
        y = y_nT[part] - mean_T
        cross_FT += (x_nF[part] - spectrum.mean_F).T @ y
        power += float(np.square(y).sum())
    if len(spectrum.size_R) == 0:
        return np.tile(mean_T.astype(np.float32), (len(test_mF), 1))
    cross_RT = spectrum.axes_FR.T @ cross_FT
    told_R = np.square(cross_RT).sum(1) / spectrum.size_R
    keep_AR = 1 / (1 + PENALTIES[:, None] * spectrum.size_R.mean() / spectrum.size_R)
    residual_A = power - ((1 - np.square(1 - keep_AR)) * told_R).sum(1)
    free_A = spectrum.rows - 1 - keep_AR.sum(1)
    best = np.argmin(np.maximum(residual_A, 0) / np.square(np.maximum(free_A, 1e-9)))
    weight_FT = spectrum.axes_FR @ (cross_RT * (keep_AR[best] / spectrum.size_R)[:, None])
    return (spectrum.project(test_mF, weight_FT) + mean_T).astype(np.float32)


def _constant(
    mean: str, random: str, values_nT: np.ndarray, count: int, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """The mean of the training values, and values of random training cells."""
    return {
        mean: np.tile(values_nT.mean(0, dtype=np.float64).astype(np.float32), (count, 1)),
        random: values_nT[rng.integers(len(values_nT), size=count)].astype(np.float32),
    }


def _neighbours(near_nF: np.ndarray, values_nT: np.ndarray, far_mF: np.ndarray) -> dict[str, np.ndarray]:
    """Values (m, T) of the nearest training cell, and means of the nearest few: weighted by 1 / distance, and even."""
    distance_mk, index_mk = _nearest(near_nF, far_mF, min(NEIGHBOURS, len(near_nF)))
    # Training cells on the very spot decide alone, as they would in the limit.
    apart_mk = distance_mk > 0
    weight_mk = np.where(apart_mk[:, :1], 1 / np.where(apart_mk, distance_mk, 1.0), ~apart_mk)
    weight_mk /= weight_mk.sum(1, keepdims=True)
    mean_mT, even_mT = (np.empty((len(far_mF), values_nT.shape[1]), np.float32) for _ in range(2))
    for part in _blocks(len(far_mF), NEIGHBOURS * values_nT.shape[1]):
        near_mkT = values_nT[index_mk[part]]
        mean_mT[part] = np.einsum("mk,mkt->mt", weight_mk[part], near_mkT)
        even_mT[part] = near_mkT.mean(1)
    return {
        "nearest cell": values_nT[index_mk[:, 0]].astype(np.float32),
        f"nearest {NEIGHBOURS} cells": mean_mT,
        f"nearest {NEIGHBOURS} cells, even": even_mT,
    }


def _nearest(near_nF: np.ndarray, far_mF: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Distances and indices (m, count) of the nearest training rows, nearest first, exactly.

    A tree in few dimensions, all distances in blocks in many, where a tree would look at them all as well.
    """
    if near_nF.shape[1] <= LOW:
        distance, index = cKDTree(near_nF).query(far_mF, k=count)
        return distance.reshape(-1, count), index.reshape(-1, count)
    distance_mk, index_mk = np.empty((len(far_mF), count)), np.empty((len(far_mF), count), np.intp)
    for part in _blocks(len(far_mF), 3 * len(near_nF)):  # distances, indices, and a copy of each row
        apart = cdist(far_mF[part], near_nF)
        chosen = np.argpartition(apart, count - 1, axis=1)[:, :count]
        found = np.take_along_axis(apart, chosen, axis=1)
        order = np.lexsort((chosen, found), axis=1)
        distance_mk[part] = np.take_along_axis(found, order, axis=1)
        index_mk[part] = np.take_along_axis(chosen, order, axis=1)
    return distance_mk, index_mk


def _variable(expression_nG: np.ndarray) -> np.ndarray:
    """Indices of all genes, or of the most variable ones where both genes and cells are many; in their old order."""
    cells, genes = expression_nG.shape
    if min(cells, genes) <= EXACT:
        return np.arange(genes)
    variance_G = np.concatenate([expression_nG[:, part].var(0, dtype=np.float64) for part in _blocks(genes, cells)])
    return np.sort(np.argsort(-variance_G, kind="stable")[:EXACT])


def _powers(position_mP: np.ndarray) -> np.ndarray:
    """All products of one to DEGREE coordinates, (m, F)."""
    axes = range(position_mP.shape[1])
    chosen = [c for degree in range(1, DEGREE + 1) for c in combinations_with_replacement(axes, degree)]
    return np.stack([position_mP[:, list(c)].astype(np.float64).prod(1) for c in chosen], 1)


def _blocks(count: int, width: int) -> Iterator[slice]:
    step = max(1, ENTRIES // max(1, width))
    return (slice(start, min(start + step, count)) for start in range(0, count, step))


def _check(train_nF: np.ndarray, train_nT: np.ndarray, test_mF: np.ndarray) -> None:
    if len(train_nF) == 0 or len(train_nF) != len(train_nT) or train_nF.shape[1] != test_mF.shape[1]:
        raise ValueError(
            f"training arrays are {train_nF.shape} and {train_nT.shape}, test is {test_mF.shape}; a baseline needs "
            "training cells, as many rows in both, and as many columns in test as in training"
        )
