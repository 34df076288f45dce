"""What may be said of each arm of a study: better, worse, equivalent, inconclusive, or not tested.

"Not better" is not "the same": only an equivalence test within a margin that was set beforehand says so. Better and
worse, and the smallest effect that would have been found, are on differences; a relative margin, as every change in
per cent, is on logarithms. The family is every contrast planned for the primary metric. It is frozen before anything
runs: arms that failed or were stopped for futility still count in it, so that losing arms cannot make the rest
significant.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import attrs
from scipy import special

from core.study.stats.contrast import Contrast
from core.study.stats.power import detectable
from core.study.stats.scores import FEWEST, LARGEST, positive, share

BETTER, WORSE, EQUIVALENT, INCONCLUSIVE, NOT_TESTED = "better", "worse", "equivalent", "inconclusive", "not tested"
POWER = 0.8


@attrs.frozen(kw_only=True)
class Margin:
    """Differences smaller than this count as none."""

    value: float = attrs.field()
    """above 0: in the metric's own unit, or the share of the baseline where `relative` (.02 is 2 %), then below 1"""
    relative: bool

    @value.validator
    def _above_zero(self, attribute: object, value: float) -> None:
        positive("an equivalence margin", value)

    def __attrs_post_init__(self) -> None:
        if self.relative and self.value >= 1:
            raise ValueError(f"a relative margin must be below 1 (.02 is 2 %), got {self.value!r}.")


@attrs.frozen(kw_only=True)
class Verdict:
    """One word about an arm, with what it rests on. A field is None where its number does not exist."""

    word: str
    """better, worse, equivalent, inconclusive or not tested"""
    why: str
    """one sentence"""
    family_size: int
    alpha: float
    p: float | None
    p_adjusted: float | None
    """Holm over the family"""
    p_equivalence: float | None
    """the larger of two one-sided tests; None without a margin, or with a relative one where a score is 0 or below"""
    p_equivalence_adjusted: float | None
    within_margin: bool | None
    """the equivalence test passed; a better or worse arm may be so by less than matters"""
    exact_possible: bool | None
    """whether so few pairs could be significant without assuming a normal distribution: 2/2^n <= alpha"""
    detectable: float | None
    """smallest difference found with 80 % power at alpha / family_size, in the metric's own unit"""
    detectable_relative: float | None
    """the same as a share of the baseline's mean; None where a score is 0 or below, as shares then mean little"""


def holm(p_values: Sequence[float | None], family_size: int | None = None) -> list[float | None]:
    """Adjusted p values, in the order given: max over j <= i of min(1, (m - j + 1) p_(j)), sorted (Holm 1979).

    None is a test that was planned and not made: it stays None and counts in m, as do members of the family beyond
    those listed. ValueError for a p outside [0, 1], or a family smaller than the list.
    """
    size = len(p_values) if family_size is None else family_size
    if size < len(p_values):
        raise ValueError(f"the family has {size} members, but {len(p_values)} p values were given.")
    for p in p_values:
        if p is not None and not 0 <= p <= 1:
            raise ValueError(f"a p value lies in [0, 1], got {p!r}.")
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    order = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    for rank, (p, i) in enumerate(order):
        largest = max(largest, min(1.0, (size - rank) * p))
        adjusted[i] = largest
    return adjusted


def equivalence(contrast: Contrast, margin: Margin) -> float | None:
    """p of "the effect lies outside the margin": the larger of two one-sided t tests (Schuirmann 1987).

    A relative margin m asks whether arm over baseline lies between 1 - m and 1 + m, by logarithms. Where all pairs
    differ by one number inside the margin, p is 1/2^n, as for a one-sided sign-flip test; 1 where splits are redrawn,
    whose pairs depend on each other. None below 3 pairs, and for a relative margin where any score is 0 or below.
    """
    if contrast.n < FEWEST or contrast.difference is None:
        return None
    if not margin.relative:
        mean, sd, low, high = contrast.difference.value, contrast.sd, -margin.value, margin.value
    elif contrast.relative is None:
        return None
    else:
        # A ratio too small for a float's distance to -1 lies outside any margin.
        mean = math.log1p(contrast.relative.value) if contrast.relative.value > -1 else -math.inf
        sd = contrast.relative_sd
        low, high = math.log1p(-margin.value), math.log1p(margin.value)
    if not sd:
        return 2.0**-contrast.n if low < mean < high and contrast.inflation == 1 else 1.0
    error = sd * math.sqrt(contrast.inflation / contrast.n)
    nearest = min(mean - low, high - mean)
    return float(special.stdtr(contrast.n - 1, -nearest / error))


def judge(
    contrasts: Sequence[Contrast],
    *,
    alpha: float = 0.05,
    margin: Margin | None = None,
    family_size: int | None = None,
) -> list[Verdict]:
    """One verdict a contrast, in the order given.

    better, worse: the paired t test's p, Holm-adjusted over `family_size` (default: the contrasts given), is at most
    alpha. equivalent: not so, and the equivalence p, Holm-adjusted over a family of the same size, is at most alpha;
    never without a margin. not tested: fewer than 3 complete pairs. Else inconclusive, which is not "no effect": the
    smallest effect that would have been found stands beside it.

    Raises ValueError for alpha outside (0, 1) or a family smaller than the list.
    """
    share("alpha", alpha)
    size = len(contrasts) if family_size is None else family_size
    adjusted = holm([c.p for c in contrasts], size)
    equivalences = [None if margin is None else equivalence(c, margin) for c in contrasts]
    rows = zip(contrasts, adjusted, equivalences, holm(equivalences, size), strict=True)
    return [_verdict(c, p, q, q_adjusted, alpha, margin, size) for c, p, q, q_adjusted in rows]


def _verdict(
    contrast: Contrast,
    p_adjusted: float | None,
    p_equivalence: float | None,
    p_equivalence_adjusted: float | None,
    alpha: float,
    margin: Margin | None,
    size: int,
) -> Verdict:
    within = None if p_equivalence_adjusted is None else p_equivalence_adjusted <= alpha
    smallest, smallest_relative = _detectable(contrast, alpha / size)
    word, why = NOT_TESTED, f"{contrast.n} complete pairs of seeds; a test needs {FEWEST}"
    if p_adjusted is not None and contrast.difference is not None:
        if p_adjusted <= alpha:
            up = (contrast.difference.value > 0) == contrast.larger_is_better
            word, why = (BETTER if up else WORSE), f"p = {p_adjusted:.2g} after Holm's correction for {size} contrasts"
            why += ", by less than the margin" if within else ""
        elif within:
            word, why = EQUIVALENT, f"within the margin, p = {p_equivalence_adjusted:.2g} after Holm's correction"
        else:
            word, why = INCONCLUSIVE, _unknown(contrast, smallest, smallest_relative)
    return Verdict(
        word=word,
        why=why,
        family_size=size,
        alpha=alpha,
        p=contrast.p,
        p_adjusted=p_adjusted,
        p_equivalence=p_equivalence,
        p_equivalence_adjusted=p_equivalence_adjusted,
        within_margin=within,
        exact_possible=None if contrast.p_floor is None else contrast.p_floor <= alpha,
        detectable=smallest,
        detectable_relative=smallest_relative,
    )


def _detectable(contrast: Contrast, alpha: float) -> tuple[float | None, float | None]:
    if contrast.n < FEWEST:
        return None, None
    widen = math.sqrt(contrast.inflation)
    plain = detectable(contrast.n, contrast.sd * widen, alpha, POWER) if contrast.sd else None
    if plain is None or contrast.relative is None or not contrast.baseline_mean:
        return plain, None
    of_mean = plain / abs(contrast.baseline_mean)
    return plain, of_mean if of_mean < LARGEST else None


def _unknown(contrast: Contrast, smallest: float | None, smallest_relative: float | None) -> str:
    if smallest is None:
        return f"all {contrast.n} pairs differ by the same amount, which says nothing about the spread"
    size = f"{smallest:.3g}" if smallest_relative is None else f"{smallest_relative:.1%} of the baseline's mean"
    return f"a difference below {size} would be missed more often than in one study of five"
