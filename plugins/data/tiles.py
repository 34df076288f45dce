"""Cells grouped by place: the order of rows in a file, blocks for a split, patches for training.

All are recursive bisections along the longer axis (Bentley 1975, doi:10.1145/361002.361007).

n cells, P axes of space.
"""

from __future__ import annotations

import math

import numpy as np


def tiled(position_nP: np.ndarray, size: int) -> np.ndarray:
    """An order of cells (n,) in which each run of `size` is a compact tile; a function of the positions alone.

    Cells on one place keep the order that they come in.
    """
    whole = np.arange(len(position_nP))
    done: list[np.ndarray] = []
    todo = [whole]
    while todo:
        index_k = todo.pop()
        place_kP = position_nP[index_k]
        axis = int(np.argmax(np.ptp(place_kP, axis=0)))
        others = [place_kP[:, other] for other in range(place_kP.shape[1]) if other != axis]
        index_k = index_k[np.lexsort([*others, place_kP[:, axis]])]
        tiles = math.ceil(len(index_k) / size)
        if tiles == 1:
            done.append(index_k)
            continue
        half = tiles // 2 * size
        todo += [index_k[half:], index_k[:half]]
    return np.concatenate(done)


def blocks(position_nP: np.ndarray, count: int) -> np.ndarray:
    """Codes (n,) of up to `count` blocks of about as many cells each, numbered by place.

    Cuts are made between places, never within one: coincident cells share a block. Codes do not depend on the order of
    cells.
    """
    code_n = np.zeros(len(position_nP), np.int64)
    made = 0
    todo = [(np.arange(len(position_nP)), count)]
    while todo:
        index_k, parts = todo.pop()
        place_kP = position_nP[index_k]
        axis = int(np.argmax(np.ptp(place_kP, axis=0)))
        along_k = place_kP[:, axis]
        left = parts // 2
        sorted_k = np.sort(along_k)
        edge = sorted_k[len(sorted_k) * left // parts] if parts > 1 else sorted_k[0]
        if edge == sorted_k[0] and parts > 1:  # many cells on the lowest place: cut behind them
            above_k = sorted_k[sorted_k > edge]
            edge = above_k[0] if len(above_k) else edge
        below_k = along_k < edge
        if parts == 1 or not below_k.any():
            code_n[index_k] = made
            made += 1
            continue
        todo += [(index_k[~below_k], parts - left), (index_k[below_k], left)]
    return code_n


def patches(position_nP: np.ndarray, parts: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Indices of `parts` patches of neighbouring cells, sizes equal to within one; each cell is in exactly one.

    The tissue is turned at random before it is cut, so that every draw has other edges.
    """
    dims = position_nP.shape[1]
    q_PP, r_PP = np.linalg.qr(rng.normal(size=(dims, dims)))
    # Scaled first, so that turning does not overflow where coordinates are gigantic.
    away_nP = position_nP - position_nP.mean(axis=0)
    turned_nP = (away_nP / max(float(np.abs(away_nP).max(initial=0.0)), np.finfo(float).tiny)) @ (
        q_PP * np.sign(np.diag(r_PP))
    )
    done: list[np.ndarray] = []
    total = len(position_nP)
    # Patch j takes the cells from total * j // parts to total * (j + 1) // parts of its half.
    todo = [(np.arange(total), 0, parts)]
    while todo:
        index_k, first, last = todo.pop()
        if last - first == 1:
            done.append(index_k)
            continue
        middle = (first + last) // 2
        half = total * middle // parts - total * first // parts
        place_kP = turned_nP[index_k]
        order_k = np.argsort(place_kP[:, int(np.argmax(np.ptp(place_kP, axis=0)))], kind="stable")
        todo += [(index_k[order_k[half:]], middle, last), (index_k[order_k[:half]], first, middle)]
    return done
