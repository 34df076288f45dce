"""Positions of sets of cells: centres, frames, and coordinates from an embedding of distances.

B sets, N cells, P axes of space, K axes of an embedding, C draws.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from core.kinds import Tree


def frames(position_BNP: Tensor, generator: torch.Generator) -> Tensor:
    """A random orthogonal matrix a set (B, P, P), uniform over rotations and reflections (Mezzadri 2007)."""
    sets, dims = position_BNP.shape[0], position_BNP.shape[-1]
    q, r = torch.linalg.qr(torch.randn(sets, dims, dims, generator=generator))
    return (q * r.diagonal(dim1=-2, dim2=-1).sign()[:, None]).to(position_BNP.device)


def turn(x_BNP: Tensor, onto_BNP: Tensor) -> Tensor:
    """Positions rotated or mirrored to lie nearest to others, both centred with zeros on padding.

    The orthogonal Procrustes problem (Schönemann 1966, doi:10.1007/BF02289451); no scale and no shift.
    """
    wide_BNP = x_BNP.double()
    left_BPP, _, right_BPP = torch.linalg.svd(wide_BNP.mT @ onto_BNP.double())
    return (wide_BNP @ (left_BPP @ right_BPP)).to(x_BNP.dtype)


def rotation(x_NP: np.ndarray, onto_NP: np.ndarray) -> np.ndarray:
    """The rotation or reflection (P, P) that `turn` takes for one set of centred positions, in float64."""
    left_PP, _, right_PP = np.linalg.svd(x_NP.T.astype(np.float64) @ onto_NP)
    return left_PP @ right_PP


def unfold(z_BNK: Tensor, dims: int, onto_BNP: Tensor) -> Tensor:
    """Coordinates (B, N, P) whose distances come closest to those of an embedding, in the frame of `onto_BNP`.

    Classical multidimensional scaling (Torgerson 1952, doi:10.1007/BF02288916): the doubly centred Gram matrix of the
    distances of K-dimensional points is Z Z^T, whose leading eigenvectors are Z times those of the small Z^T Z, so
    no N x N matrix is made and the cost is O(N K^2).

    Args:
        z_BNK: the embedding, centred, with zeros on padding; K >= P.
        dims: P.
        onto_BNP: positions, centred with zeros on padding, that the frame is taken from.
    """
    wide_BNK = z_BNK.double()
    _, axes_BKK = torch.linalg.eigh(wide_BNK.mT @ wide_BNK)
    return turn(wide_BNK @ axes_BKK[..., -dims:], onto_BNP).to(z_BNK.dtype)


def mean_of(drawn: list[Tree], align: bool) -> Tree:
    """The mean of C draws of each modality.

    Args:
        drawn: the draws; positions centred with zeros on padding.
        align: whether positions have no frame in common, so that each draw is turned onto the first one before.
    """
    found = {}
    for name in drawn[0]:
        values = [draw[name] for draw in drawn]
        if align and name == "position":
            values = [values[0], *(turn(value, values[0]) for value in values[1:])]
        found[name] = torch.stack(values).mean(0)
    return found
