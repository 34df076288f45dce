"""What each factor of a study does, and which pairs of factors act on each other.

Shape legend: N trials, C columns of the design.

Least squares on sum-coded factors, their two-way interactions, and seeds as blocks. The intervals and p values here are
not corrected for their number: they describe a design, while verdicts come from `judge`.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

import attrs
import numpy as np
from scipy import special

from core.study.stats.coding import TOLERANCE, Term, blocks, estimable, ordered, reason, terms, trials
from core.study.stats.scores import ROUNDING, Estimate, Floats, Scores, interval, share, t_two_sided


@attrs.frozen(kw_only=True)
class Deviation:
    """How far a level (or a pair of levels, beyond their main effects) lies from the mean over all levels."""

    term: str
    level: str
    """levels of a pair are joined by ":" """
    estimate: Estimate
    p: float | None


@attrs.frozen(kw_only=True)
class TwoLevelEffect:
    """A factor's second level minus its first, or half the difference of one factor's effects at the other's levels."""

    term: str
    estimate: Estimate
    p: float | None


@attrs.frozen(kw_only=True)
class AnovaRow:
    """A term's type II sum of squares: what it explains beyond all terms that do not contain it."""

    term: str
    sum_of_squares: float
    df: int
    f: float | None
    p: float | None


@attrs.frozen(kw_only=True)
class Effects:
    """A factorial analysis. Numbers that need an error estimate are None where no trials are left to give one."""

    levels: dict[str, tuple[str, ...]]
    """of each factor, the baseline's first, then by name"""
    n: int
    """trials that count"""
    left_out: int
    """trials without a score"""
    deviations: tuple[Deviation, ...]
    two_level: tuple[TwoLevelEffect, ...]
    """terms whose factors have two levels each"""
    anova: tuple[AnovaRow, ...]
    residual_df: int
    residual_sd: float | None
    not_estimable: dict[str, str]
    """terms that these trials cannot tell, each with its reason"""
    assumed_absent: tuple[str, ...]
    """interactions among them: everything else here holds if they are 0"""


def effects(
    y: Scores,
    factors: Mapping[str, Sequence[Hashable]],
    seeds: Sequence[Hashable],
    *,
    baseline: Mapping[str, Hashable] | None = None,
    alpha: float = 0.05,
) -> Effects:
    """Main effects and two-way interactions with t intervals (Yates 1937; type II sums: Yates 1934).

    `y`, each entry of `factors` and `seeds` have one entry a trial; levels and seeds are compared by their text.
    `baseline` names the level of a factor that comes first. For 2^k cells of n seeds each, `two_level` is
    E = (1 / 2^(k-1)) sum(+- cell mean), with variance 4 sigma^2 / (n 2^k).

    An interaction that the trials cannot tell from everything else (cells without data, or aliases of a fraction) is
    named, taken as 0 and left out of the model. A main effect that they cannot tell is named and stays in the model
    without a number. Factors of one level are named too.

    Raises ValueError for lengths that differ, no factors, no scores, infinite values, a baseline level or factor that
    no trial has, or alpha outside (0, 1).
    """
    share("alpha", alpha)
    y_N, given, seed_N, left_out = trials(y, factors, seeds)
    levels = {name: ordered(name, given[name], baseline or {}) for name in factors}
    if strange := sorted(set(baseline or {}) - set(factors)):
        raise ValueError(f"baseline names {', '.join(strange)}, but the factors are {', '.join(factors)}.")
    reasons = {name: f"only one level, {known[0]}" for name, known in levels.items() if len(known) == 1}
    candidates = terms({name: known for name, known in levels.items() if len(known) > 1}, given)
    blocks_NC = blocks(seed_N)
    told = estimable(blocks_NC, candidates)
    absent = [t for t, seen in zip(candidates, told, strict=True) if len(t.factors) > 1 and not seen]
    model = [t for t in candidates if t not in absent]
    reasons |= {t.name: reason(t, given) for t in absent}
    told = estimable(blocks_NC, model)
    reasons |= {t.name: reason(t, given) for t, seen in zip(model, told, strict=True) if not seen}
    kept = [t for t, seen in zip(model, told, strict=True) if seen]
    fit = _Fit.of(y_N, blocks_NC, model)
    return Effects(
        levels=levels,
        n=y_N.size,
        left_out=left_out,
        deviations=tuple(_deviation(fit, t, i, alpha) for t in kept for i in range(len(t.levels))),
        two_level=tuple(_two_level(fit, t, alpha) for t in kept if t.columns_NC.shape[1] == 1),
        anova=tuple(_anova(fit, t) for t in kept),
        residual_df=fit.df,
        residual_sd=None if fit.variance is None else fit.variance**0.5,
        not_estimable=reasons,
        assumed_absent=tuple(t.name for t in absent),
    )


@attrs.frozen(kw_only=True, eq=False)
class _Fit:
    y_N: Floats
    blocks_NC: Floats
    model: list[Term]
    coefficients_C: Floats
    covariance_CC: Floats
    """of the coefficients, for a residual variance of 1"""
    df: int
    variance: float | None

    @classmethod
    def of(cls, y_N: Floats, blocks_NC: Floats, model: list[Term]) -> _Fit:
        x_NC = np.hstack([blocks_NC, *(t.columns_NC for t in model)])
        inverse_CN = np.linalg.pinv(x_NC, rcond=TOLERANCE)
        left, rank = _residual(y_N, x_NC)
        df = y_N.size - rank
        exact = left <= y_N.size * (ROUNDING * float(np.abs(y_N).max())) ** 2
        return cls(
            y_N=y_N,
            blocks_NC=blocks_NC,
            model=model,
            coefficients_C=inverse_CN @ y_N,
            covariance_CC=inverse_CN @ inverse_CN.T,
            df=df,
            variance=None if df == 0 or exact else left / df,
        )

    def contrast(self, term: Term, row_C: Floats, alpha: float) -> tuple[Estimate, float | None]:
        start = self.blocks_NC.shape[1]
        for other in self.model[: self.model.index(term)]:
            start += other.columns_NC.shape[1]
        at = slice(start, start + row_C.size)
        value = float(row_C @ self.coefficients_C[at])
        if self.variance is None:
            return Estimate(value=value), None
        error = float(np.sqrt(self.variance * (row_C @ self.covariance_CC[at, at] @ row_C)))
        return interval(value, error, self.df, alpha), t_two_sided(value / error, self.df)


def _deviation(fit: _Fit, term: Term, i: int, alpha: float) -> Deviation:
    estimate, p = fit.contrast(term, term.rows_LC[i], alpha)
    return Deviation(term=term.name, level=term.levels[i], estimate=estimate, p=p)


def _two_level(fit: _Fit, term: Term, alpha: float) -> TwoLevelEffect:
    # The first level is coded 1 and the second -1: one factor's effect is -2 coefficients, a pair's +2.
    estimate, p = fit.contrast(term, np.array([2.0 * (-1) ** len(term.factors)]), alpha)
    return TwoLevelEffect(term=term.name, estimate=estimate, p=p)


def _anova(fit: _Fit, term: Term) -> AnovaRow:
    apart = [t.columns_NC for t in fit.model if not set(term.factors) <= set(t.factors)]
    before, rank_before = _residual(fit.y_N, np.hstack([fit.blocks_NC, *apart]))
    after, rank_after = _residual(fit.y_N, np.hstack([fit.blocks_NC, *apart, term.columns_NC]))
    total, df = max(before - after, 0.0), rank_after - rank_before
    f = None if fit.variance is None else total / df / fit.variance
    p = None if f is None else float(special.fdtrc(df, fit.df, f))
    return AnovaRow(term=term.name, sum_of_squares=total, df=df, f=f, p=p)


def _residual(y_N: Floats, x_NC: Floats) -> tuple[float, int]:
    left_NN, size, _ = np.linalg.svd(x_NC, full_matrices=False)
    basis = left_NN[:, size > TOLERANCE * size[0]]
    rest_N = y_N - basis @ (basis.T @ y_N)
    return float(rest_N @ rest_N), basis.shape[1]
