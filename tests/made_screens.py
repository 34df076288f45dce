"""A small screen that no library's random numbers go into, and what cell-eval 0.8.2 says of a prediction of it."""

from __future__ import annotations

import numpy as np

from core.kinds.comparison import Truth

GENES = tuple(f"G{i}" for i in range(70))
PERTURBATIONS = ("G1", "G2", "G3", "G4", "G5", "G1+G2", "G7", "G8")
GOLDEN = {
    "overlap_at_N": [0.0, 0.761904762, 0.0, 0.666666667, 0.666666667, 0.692307692, 0.666666667, 0.833333333],
    "overlap_at_50": [0.0, 0.761904762, 0.0, 0.666666667, 0.666666667, 0.692307692, 0.666666667, 0.833333333],
    "precision_at_N": [0.0, 0.739130435, 0.333333333, 0.5, 0.541666667, 0.647058824, 0.75, 0.888888889],
    "precision_at_50": [0.0, 0.739130435, 0.333333333, 0.5, 0.541666667, 0.647058824, 0.75, 0.888888889],
    "de_spearman_sig": [0.821428571],
    "de_direction_match": [None, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0],
    "de_spearman_lfc_sig": [None, 0.901298701, None, 0.5, 0.885714286, 0.708791209, 0.946336429, 0.913156752],
    "de_sig_genes_recall": [None, 0.80952381, 1.0, 0.666666667, 0.866666667, 0.846153846, 0.666666667, 0.833333333],
    "de_nsig_counts_real": [0.0, 21.0, 1.0, 3.0, 15.0, 13.0, 18.0, 48.0],
    "de_nsig_counts_pred": [0.0, 23.0, 3.0, 4.0, 24.0, 17.0, 16.0, 45.0],
    "pr_auc": [None, 0.899770413, 0.5, 0.506944444, 0.751492159, 0.769443441, 0.828944282, 0.927743507],
    "roc_auc": [None, 0.945092323, 0.985507246, 0.935323383, 0.92, 0.928475034, 0.873397436, 0.828598485],
    "pearson_delta": [
        0.176535517,
        0.878485739,
        0.504380763,
        0.508649766,
        0.869351387,
        0.796827674,
        0.901097953,
        0.929960966,
    ],
    "mse": [
        0.0522191338,
        0.0596587323,
        0.0577686168,
        0.069861345,
        0.0669625401,
        0.0708662719,
        0.0554748178,
        0.0816253573,
    ],
    "mae": [0.178181648, 0.181302533, 0.168427601, 0.202896833, 0.183876216, 0.210463226, 0.179047182, 0.222540513],
    "mse_delta": [
        0.0522191338,
        0.0596587323,
        0.0577686243,
        0.069861345,
        0.0669625401,
        0.0708662719,
        0.0554748178,
        0.0816253573,
    ],
    "mae_delta": [
        0.178181648,
        0.181302533,
        0.168427601,
        0.202896833,
        0.183876216,
        0.210463226,
        0.179047197,
        0.222540513,
    ],
    "discrimination_score_l1": [1.0, 1.0, 1.0, 0.875, 1.0, 1.0, 1.0, 1.0],
    "discrimination_score_l2": [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0],
    "discrimination_score_cosine": [0.75, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0],
    "pearson_edistance": [0.987638902],
}
for _k in (100, 200, 500):
    GOLDEN[f"overlap_at_{_k}"] = GOLDEN["overlap_at_50"]  # no perturbation has more than 50 differing genes
    GOLDEN[f"precision_at_{_k}"] = GOLDEN["precision_at_50"]
"""by metric: one value for each perturbation in the order of their names, or one for all; None where it is undefined"""


def uniform(count: int, seed: int) -> np.ndarray:
    """Numbers between 0 and 1 by SplitMix64."""
    x = (np.arange(1, count + 1, dtype=np.uint64) + np.uint64(seed) * np.uint64(1000003)) * np.uint64(
        0x9E3779B97F4A7C15
    )
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    return ((x >> np.uint64(11)).astype(np.float64) + 0.5) / 2.0**53


def cells(rate_G: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Cells (count, G) in log1p whose counts have geometric-like tails."""
    counts = np.floor(-np.log(uniform(count * len(rate_G), seed).reshape(count, -1)) * rate_G)
    return np.log1p(counts).astype(np.float32)


def screen() -> tuple[np.ndarray, dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Controls (60, G), and real and predicted cells (24, G) by perturbation."""
    genes = len(GENES)
    base_G = 0.2 + 4 * uniform(genes, 1)
    base_G[0] = 0.0  # a gene that no cell has
    real, predicted = {}, {}
    for i, name in enumerate(PERTURBATIONS):
        hit_G = uniform(genes, 10 + i) < 0.1 * i
        effect_G = np.where(hit_G, np.exp(3.0 * (uniform(genes, 30 + i) - 0.4)), 1.0)
        if i == 3:
            effect_G[5] = 0.0  # a gene that perturbed cells lose, whose fold change is infinite
        if i == 7:
            effect_G = np.exp(4 * (uniform(genes, 50) - 0.3))
        guessed_G = effect_G * np.exp(0.8 * (uniform(genes, 60 + i) - 0.5))
        real[name] = cells(base_G * effect_G, 24, 100 + i)
        predicted[name] = cells(base_G * guessed_G, 24, 200 + i)
    return cells(base_G, 60, 2), real, predicted


def truth() -> Truth:
    """The real side of the screen; two of its perturbations stand for those of training."""
    controls, real, _ = screen()
    known = {name: real[name].mean(0) for name in ("G1", "G2")}
    return Truth(groups=real, reference=controls, features=GENES, known=known)
