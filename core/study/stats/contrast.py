"""One arm against the baseline over shared seeds: the primary statistics of a study.

Shape legend: S seeds. Score i of the arm and of the baseline belong to one seed. Differences are arm minus baseline in
the metric's own units, whichever direction is better.
"""

from __future__ import annotations

import math

import attrs
import numpy as np
from scipy import special

from core.study.stats.scores import (
    FEWEST,
    ROUNDING,
    Estimate,
    Floats,
    Scores,
    grown,
    interval,
    pairs,
    share,
    spread,
    t_two_sided,
)
from core.study.stats.signflip import sign_flip


@attrs.frozen(kw_only=True)
class Contrast:
    """What n complete pairs say about an arm. A field is None where its number does not exist."""

    larger_is_better: bool
    alpha: float
    """intervals hold with probability 1 - alpha"""
    n: int
    """complete pairs; everything below is over these alone"""
    left_out: int
    """seeds where either score is missing"""
    baseline_mean: float | None
    arm_mean: float | None
    difference: Estimate | None
    """mean of arm minus baseline; interval, for this contrast alone, from 3 pairs that are not all as far apart"""
    sd: float | None
    """standard deviation of the differences over seeds; None below 2 pairs"""
    inflation: float
    """what the variance of the mean difference is multiplied with: 1, or more where splits are redrawn"""
    t: float | None
    p: float | None
    """two-sided, of the paired t test; `paired` says what it is where all differences are one number"""
    p_exact: float | None
    """two-sided, of the sign-flip test, which assumes no normal distribution; None where pairs depend on each other"""
    p_floor: float | None
    """the least `p_exact` that n pairs can give: 2/2^n, or 1/20,000 where patterns are drawn and that is more"""
    exact: bool | None
    """whether `p_exact` counts all sign patterns (to 16 pairs) or draws them"""
    relative: Estimate | None
    """exp(mean log arm - mean log baseline) - 1, so .03 is 3 % more; None where any score is 0 or below"""
    relative_sd: float | None
    """standard deviation of log arm - log baseline over seeds"""
    improve: Estimate | None
    """share of seeds where the arm is better, ties by half, with Wilson's interval"""
    rho: float | None
    """correlation of arm and baseline over seeds"""
    pairing_gain: float | None
    """variance of an unpaired over that of a paired comparison: above 1 sharing seeds helped, below 1 it harmed"""

    @property
    def error(self) -> float | None:
        """Standard error of the mean difference."""
        return None if self.sd is None else self.sd * math.sqrt(self.inflation / self.n)

    @property
    def constant(self) -> bool:
        """All differences are one number, so that nothing is known about their spread."""
        return self.sd == 0.0


def paired(base_S: Scores, arm_S: Scores, *, larger_is_better: bool, alpha: float = 0.05) -> Contrast:
    """The paired t test with what belongs beside it.

    - `difference`, `t`, `p`: Student 1908. Assumes that differences are about normal; metrics of skewed noise are
      better given as logarithms.
    - `relative`: the t interval on differences of logarithms, taken back by exp.
    - `improve`: Wilson 1927, J Am Stat Assoc 22:209.

    Below 3 complete pairs there is no test and no interval. Where all differences are the same, up to rounding, the t
    test is undefined: if they are 0, p is 1; if not, p is 2/2^n, the exact test's floor, which is all that n equal
    signs can prove; neither has an interval for the difference.

    Raises ValueError for arrays of unequal length, more than one axis, infinite values, or alpha outside (0, 1).
    """
    return measure(base_S, arm_S, larger_is_better=larger_is_better, alpha=alpha, overlap=0.0)


def measure(base_S: Scores, arm_S: Scores, *, larger_is_better: bool, alpha: float, overlap: float) -> Contrast:
    """`paired` for n differences whose mean has variance sd^2 (1/n + overlap)."""
    share("alpha", alpha)
    both = pairs(base_S, arm_S)
    base, arm = both.base_S, both.arm_S
    n, tested = base.size, base.size >= FEWEST
    inflation = 1.0 + n * overlap
    difference_S = arm - base
    scale = float(max(np.abs(base).max(initial=0.0), np.abs(arm).max(initial=0.0)))
    sd = spread(difference_S, scale) if n > 1 else None
    if sd == 0.0 and abs(difference_S.mean()) <= ROUNDING * scale:
        difference_S = np.zeros_like(difference_S)
    t, p = _t_test(difference_S, sd, overlap) if tested else (None, None)
    flip = sign_flip(difference_S) if tested and not overlap else None
    relative, relative_sd = _relative(base, arm, inflation, alpha)
    rho, gain = _shared(base, arm, sd) if tested else (None, None)
    return Contrast(
        larger_is_better=larger_is_better,
        alpha=alpha,
        n=n,
        left_out=both.left_out,
        baseline_mean=float(base.mean()) if n else None,
        arm_mean=float(arm.mean()) if n else None,
        difference=_mean(difference_S, sd, inflation, alpha) if n else None,
        sd=sd,
        inflation=inflation,
        t=t,
        p=p,
        p_exact=None if flip is None else flip.p,
        p_floor=None if flip is None else flip.floor,
        exact=None if flip is None else flip.exact,
        relative=relative,
        relative_sd=relative_sd,
        improve=_improve(difference_S if larger_is_better else -difference_S, alpha) if n else None,
        rho=rho,
        pairing_gain=gain,
    )


def _mean(difference_S: Floats, sd: float | None, inflation: float, alpha: float) -> Estimate:
    n, mean = difference_S.size, float(difference_S.mean())
    if n < FEWEST or not sd:
        return Estimate(value=mean)
    return interval(mean, sd * math.sqrt(inflation / n), n - 1, alpha)


def _t_test(difference_S: Floats, sd: float | None, overlap: float) -> tuple[float | None, float]:
    n = difference_S.size
    if sd:
        t = float(difference_S.mean()) / (sd * math.sqrt(1 / n + overlap))
        return t, t_two_sided(t, n - 1)
    return None, sign_flip(difference_S).floor if difference_S.any() and not overlap else 1.0


def _relative(base_S: Floats, arm_S: Floats, inflation: float, alpha: float) -> tuple[Estimate | None, float | None]:
    n = base_S.size
    if not n or min(base_S.min(), arm_S.min()) <= 0:
        return None, None
    logs = np.log([base_S, arm_S])
    log_S = logs[1] - logs[0]
    sd = spread(log_S, max(1.0, float(np.abs(logs).max()))) if n > 1 else None
    return _from_log(_mean(log_S, sd, inflation, alpha)), sd


def _from_log(log: Estimate) -> Estimate | None:
    value = grown(log.value)
    high = None if log.high is None else grown(log.high)
    if value is None:
        return None
    if log.low is None or high is None:
        return Estimate(value=value)
    return Estimate(value=value, low=math.expm1(log.low), high=high)


def _improve(gain_S: Floats, alpha: float) -> Estimate:
    n, share_better = gain_S.size, float(np.mean((gain_S > 0) + 0.5 * (gain_S == 0)))
    if n < FEWEST:
        return Estimate(value=share_better)
    z2 = float(special.ndtri(1 - alpha / 2)) ** 2
    centre = (share_better + z2 / (2 * n)) / (1 + z2 / n)
    half = math.sqrt(z2 * (share_better * (1 - share_better) / n + z2 / (4 * n * n))) / (1 + z2 / n)
    return Estimate(value=share_better, low=max(0.0, centre - half), high=min(1.0, centre + half))


def _shared(base_S: Floats, arm_S: Floats, sd: float | None) -> tuple[float | None, float | None]:
    base = spread(base_S, float(np.abs(base_S).max()))
    arm = spread(arm_S, float(np.abs(arm_S).max()))
    rho = None
    if base and arm:
        products = (base_S - base_S.mean()) / base * ((arm_S - arm_S.mean()) / arm)
        rho = float(np.clip(products.sum() / (base_S.size - 1), -1, 1))
    return rho, (base / sd) ** 2 + (arm / sd) ** 2 if sd else None
