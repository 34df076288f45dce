"""Where the truth stands among draws. K draws, entries of any shape."""

from __future__ import annotations

import numpy as np

from plugins.metrics._arrays import blocks


def miscalibration(draws_KM: np.ndarray, true_M: np.ndarray) -> float:
    """Mean gap between the coverage of central intervals of K draws and what it should be, 0 to 1.

    If truth and draws come from one distribution, the rank of the truth among K draws is uniform on 0..K, and the
    interval from the j-th smallest to the j-th largest draw covers it with probability (K + 1 - 2 j) / (K + 1),
    whatever that distribution is. The gap is the mean over j of |share covered - this|. Where the truth ties with t
    draws it takes each of its t + 1 possible ranks with equal weight, so that draws that all equal the truth count as
    calibrated.
    """
    draws = len(draws_KM)
    mass_R = np.zeros(draws + 2)
    for part in blocks(len(true_M), draws):
        below_M = (draws_KM[:, part] < true_M[part]).sum(0)
        tied_M = (draws_KM[:, part] == true_M[part]).sum(0)
        weight_M = 1.0 / (tied_M + 1)
        np.add.at(mass_R, below_M, weight_M)
        np.add.at(mass_R, below_M + tied_M + 1, -weight_M)
    share_R = np.cumsum(mass_R)[:-1] / len(true_M)
    gaps = [abs(share_R[j : draws - j + 1].sum() - (draws + 1 - 2 * j) / (draws + 1)) for j in range(1, draws // 2 + 1)]
    return float(np.mean(gaps)) if gaps else 0.0
