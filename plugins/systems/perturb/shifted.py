"""Cells from means: real controls moved until their mean is the one that was predicted. n cells, G genes.

A prediction of a mean that is judged as cells needs the spread and the exact zeros of cells: without the zeros every
gene differs from the controls.
"""

from __future__ import annotations

import numpy as np

LIFT = 1.0
"""the most by which expressed genes of a cell rise (log1p units) before silent ones are switched on"""
STEPS = 60
"""halvings of the interval in which a fall is looked for"""


def shifted(control_nG: np.ndarray, mean_G: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Controls moved so that their mean is `mean_G`, float32.

    A gene that falls is lowered in every cell that has it, and clipped at 0. One that rises is raised in every cell
    that has it; zeros stay zeros, until a rise of `LIFT` does not do: then cells without it, chosen at random, get it.

    Args:
        control_nG: log1p expression of real cells, >= 0.
        mean_G: the mean to reach; what is below 0 counts as 0.
        rng: which silent cells are switched on.
    """
    out_nG = control_nG.astype(np.float64)
    wanted_G = np.maximum(np.asarray(mean_G, np.float64), 0.0)
    have_nG = out_nG > 0
    now_G, share_G = out_nG.mean(0), have_nG.mean(0)
    falls_G = wanted_G < now_G
    out_nG[:, falls_G] = np.maximum(out_nG[:, falls_G] - _fall(out_nG[:, falls_G], wanted_G[falls_G]), 0.0)
    missing_G = np.where(falls_G, 0.0, wanted_G - now_G)
    rise_G = np.divide(missing_G, share_G, out=np.zeros_like(missing_G), where=share_G > 0)
    # Where every cell has the gene there is none to switch on.
    rise_G = np.where(share_G < 1, np.minimum(rise_G, LIFT), rise_G)
    out_nG += have_nG * rise_G
    for gene in np.flatnonzero(wanted_G - out_nG.mean(0) > 1e-9):
        _switch_on(out_nG[:, gene], wanted_G[gene], rng)
    return out_nG.astype(np.float32)


def _fall(values_nG: np.ndarray, wanted_G: np.ndarray) -> np.ndarray:
    """By how much each gene falls so that, clipped at 0, its mean is the wanted one."""
    low_G, high_G = np.zeros(len(wanted_G)), values_nG.max(0, initial=0.0)
    for _ in range(STEPS):
        middle_G = (low_G + high_G) / 2
        above_G = np.maximum(values_nG - middle_G, 0.0).mean(0) > wanted_G
        low_G, high_G = np.where(above_G, middle_G, low_G), np.where(above_G, high_G, middle_G)
    return high_G


def _switch_on(values_n: np.ndarray, wanted: float, rng: np.random.Generator) -> None:
    """Give a gene to silent cells, each as much as the cells have that express it, until the mean is reached."""
    silent = np.flatnonzero(values_n == 0)
    having = values_n[values_n > 0]
    level = float(having.mean()) if having.size else LIFT
    missing = wanted * len(values_n) - values_n.sum()
    count = min(len(silent), max(1, int(np.ceil(missing / level))))
    values_n[rng.permutation(silent)[:count]] = missing / count
