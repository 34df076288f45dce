"""Pairs of cells in contact. N cells, P axes, M pairs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, final

import numpy as np

from core.kinds.metric import Metric
from core.params import knob, params
from plugins.metrics._arrays import PAIRS, blocks, distances, onto_extent, pair, spread

SHIFT = 52 - 8
"""bits of a float64 dropped when distances are binned, so that a bin spans a 256th of a power of two"""


@final
@params
class ContactF1(Metric):
    """Whether the closest pairs of cells in the truth are the closest in the prediction.

    A pair is in contact where its distance is below the percentile of all pairs, in truth and prediction each by its
    own; the score is F1 of predicted against true contacts, as in LUNA's evaluation (Yu et al. 2025,
    doi:10.1101/2025.02.13.638045). LUNA leaves out pairs at distance 0 in either, and so does this. Chance is the
    percentile itself. Numbers at 1 % and 10 % do not compare. A unit without any contact scores 0. Of more than
    8,192 cells the pairs among 8,192 evenly spread ones are taken. On `rescale` see `distance_spearman`.
    """

    percentile: float = knob(0.1, "share of pairs that are in contact", gt=0, lt=1)
    rescale: bool = knob(False, "stretch each predicted axis to the extent of the true one first, as LUNA does")

    of: ClassVar[str] = "position"
    higher: ClassVar[bool] = True
    best: ClassVar[float] = 1.0
    label: ClassVar[str] = "contact F1 (closest pairs)"

    def score(self, predicted: np.ndarray, true: np.ndarray) -> float:
        """F1 of predicted (N, P) against true (N, P)."""
        predicted_NP, true_NP = pair(predicted, true)
        if self.rescale:
            predicted_NP = onto_extent(predicted_NP, true_NP)
        # Among fewer cells the same share of pairs is as close, so the percentile stays what it is.
        some_N = spread(round((2 * PAIRS) ** 0.5), true_NP, predicted_NP)
        predicted_NP, true_NP = predicted_NP[some_N], true_NP[some_N]
        limit_2 = _quantiles(predicted_NP, true_NP, self.percentile)
        both = total = 0
        for pairs_2M in _pairs(predicted_NP, true_NP):
            contact_2M = pairs_2M < limit_2[:, None]
            both += int(contact_2M.all(0).sum())
            total += int(contact_2M.sum())
        return 2 * both / total if total else 0.0


def _pairs(predicted_NP: np.ndarray, true_NP: np.ndarray) -> Iterator[np.ndarray]:
    """Predicted and true distance of every pair i < j that is apart in both, in blocks (2, M)."""
    cells = len(true_NP)
    for part in blocks(cells, cells):
        both_2RN = np.stack([distances(x_NP, part, first=part.start) for x_NP in (predicted_NP, true_NP)])
        later_RN = np.arange(both_2RN.shape[2]) > np.arange(both_2RN.shape[1])[:, None]
        yield both_2RN[:, later_RN & (both_2RN > 0).all(0)]


def _quantiles(predicted_NP: np.ndarray, true_NP: np.ndarray, share: float) -> np.ndarray:
    """The quantile of the predicted and of the true distances (2,), exact and without holding all of them.

    Equals `numpy.quantile` over ordered pairs. One pass counts distances by the leading bits of their floats, which
    sort as the floats do; a second keeps only the bins that hold the two order statistics wanted.
    """
    counts = [np.zeros(1, np.int64), np.zeros(1, np.int64)]
    for pairs_2M in _pairs(predicted_NP, true_NP):
        for which, bin_M in enumerate(pairs_2M.view(np.int64) >> SHIFT):
            fresh = np.bincount(bin_M, minlength=len(counts[which]))
            fresh[: len(counts[which])] += counts[which]
            counts[which] = fresh
    pairs = int(counts[0].sum())
    if pairs == 0:
        return np.zeros(2)
    # Every distance stands twice among ordered pairs, so rank r there is rank r // 2 here.
    place = share * (2 * pairs - 1)
    low, high = int(place) // 2, min(int(place) + 1, 2 * pairs - 1) // 2
    kept: list[list[np.ndarray]] = [[], []]
    ends = [np.searchsorted(np.cumsum(count), [low, high], side="right") for count in counts]
    for pairs_2M in _pairs(predicted_NP, true_NP):
        for which, bin_M in enumerate(pairs_2M.view(np.int64) >> SHIFT):
            kept[which].append(pairs_2M[which, (bin_M >= ends[which][0]) & (bin_M <= ends[which][1])])
    values = []
    for which in range(2):
        before = int(counts[which][: ends[which][0]].sum())
        below, above = np.sort(np.concatenate(kept[which]))[[low - before, high - before]]
        values.append(below + (above - below) * (place - int(place)))
    return np.array(values)
