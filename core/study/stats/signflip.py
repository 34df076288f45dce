"""The sign-flip test: were arm and baseline swapped within a seed at random, how often would they differ this much?

It assumes only that a pair could as well have come the other way round, so it needs no normal distribution; the price
is a floor, 2/2^n for n pairs. Not to be confused with the Wilcoxon signed-rank test, which flips signs of ranks.
"""

from __future__ import annotations

import attrs
import numpy as np

from core.study.stats.scores import Floats

MOST = 16
"""pairs up to which all sign patterns are counted"""
DRAWS = 19_999
CHUNK = 1_000
TIE = 1e-12
"""of the sum of sizes: sums closer than this are the same sum, added in another order"""


@attrs.frozen(kw_only=True)
class SignFlip:
    p: float
    """two-sided"""
    floor: float
    """the least p that this many pairs can give, whatever the differences"""
    exact: bool
    """all 2^n patterns were counted; otherwise patterns were drawn, and p is (1 + hits) / (1 + draws)"""


def sign_flip(difference_S: Floats) -> SignFlip:
    """Two-sided p of the mean difference (Fisher 1935, The Design of Experiments, section 21).

    Beyond 16 pairs patterns are drawn with a generator of its own, always the same; p then counts the observed pattern
    too, so that it is never 0 (Phipson & Smyth 2010, Stat Appl Genet Mol Biol 9:39). ValueError without differences.
    """
    n = difference_S.size
    if n == 0:
        raise ValueError("the sign-flip test needs at least one difference, got none.")
    size_S = np.sort(np.abs(difference_S))
    observed = abs(float(difference_S.sum())) - TIE * float(size_S.sum())
    if n > MOST:
        return SignFlip(p=_drawn(size_S, observed), floor=max(2.0 ** (1 - n), 1 / (DRAWS + 1)), exact=False)
    sums = size_S[-1:]
    for size in size_S[-2::-1]:
        sums = np.concatenate([sums + size, sums - size])
    return SignFlip(p=float(np.mean(np.abs(sums) >= observed)), floor=2.0 ** (1 - n), exact=True)


def _drawn(size_S: Floats, observed: float) -> float:
    generator = np.random.Generator(np.random.PCG64(0))
    hits, left = 0, DRAWS
    while left:
        rows = min(CHUNK, left)
        signs = generator.integers(0, 2, size=(rows, size_S.size), dtype=np.int8) * 2.0 - 1.0
        hits += int(np.sum(np.abs(signs @ size_S) >= observed))
        left -= rows
    return (1 + hits) / (1 + DRAWS)
