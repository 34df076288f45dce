"""Several tasks at once: the mean effect over them, and the interquartile mean as a description.

Shape legend: S seeds (their number may differ between tasks), D tasks.

Raw metrics of different tasks are never averaged: every task brings a `Scale`, and scores become shares of the way from
the trivial answer (0) to the best possible one (1), larger always better.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import attrs
import numpy as np

from core.study.stats.scores import (
    FEWEST,
    Estimate,
    Floats,
    Scores,
    interval,
    pairs,
    share,
    spread,
    t_two_sided,
    values,
)

DRAWS = 10_000
MOST_DRAWS = 100_000


@attrs.frozen(kw_only=True)
class Scale:
    """What a metric's 0 % and 100 % are on a task, fixed before any arm ran."""

    trivial: float
    """score of the field's trivial baseline, or of chance"""
    best: float
    """score of the oracle, or the metric's bound; below `trivial` where smaller is better"""

    def __attrs_post_init__(self) -> None:
        if not (math.isfinite(self.trivial) and math.isfinite(self.best)) or self.trivial == self.best:
            message = f"a scale needs two different finite scores, got trivial {self.trivial!r} and best {self.best!r}."
            raise ValueError(message)

    def share(self, score: Floats) -> Floats:
        return (score - self.trivial) / (self.best - self.trivial)


@attrs.frozen(kw_only=True)
class TaskMean:
    """The mean effect over fixed tasks, as shares of their scales. A field is None where its number does not exist."""

    effects: dict[str, Estimate]
    """of each task that has a complete pair"""
    without: tuple[str, ...]
    """tasks with fewer than 3 complete pairs; while there are any, there is no mean"""
    left_out: int
    """seeds of all tasks where either score is missing"""
    mean: Estimate | None
    df: float | None
    p: float | None


@attrs.frozen(kw_only=True)
class Iqm:
    """Interquartile means: a description, not a test. Percentile intervals over few seeds and tasks are too narrow."""

    means: dict[str, Estimate]
    """of each arm"""
    differences: dict[str, Estimate]
    """of each arm but the baseline: arm minus baseline, seeds redrawn together"""
    n: dict[str, int]
    """of each task, seeds that every arm has"""
    left_out: int
    """seeds of all tasks that some arm misses"""
    label: str = "descriptive"


def over_tasks(
    base: Mapping[str, Scores], arm: Mapping[str, Scores], scales: Mapping[str, Scale], *, alpha: float = 0.05
) -> TaskMean:
    """The unweighted mean of the tasks' paired effects, with its t interval; the tasks are fixed, not a sample.

    Standard error sqrt(sum_d s_d^2 / n_d) / D, degrees of freedom by Welch (1947, Biometrika 34:28) and Satterthwaite;
    it speaks of new seeds on these tasks, not of other tasks. Differences of different tasks count as independent.

    Raises ValueError where the three mappings name different tasks, for infinite values, or alpha outside (0, 1).
    """
    share("alpha", alpha)
    _same_tasks({"base": base, "arm": arm, "scales": scales})
    effects: dict[str, Estimate] = {}
    without, left_out, variances = [], 0, []
    for task in sorted(scales):
        both = pairs(base[task], arm[task])
        left_out += both.left_out
        base_S, arm_S = scales[task].share(both.base_S), scales[task].share(both.arm_S)
        n, difference_S = base_S.size, arm_S - base_S
        if n:
            effects[task] = Estimate(value=float(difference_S.mean()))
        if n < FEWEST:
            without.append(task)
            continue
        sd = spread(difference_S, float(max(np.abs(base_S).max(), np.abs(arm_S).max())))
        variances.append((sd * sd / n, n - 1))
        if sd:
            effects[task] = interval(effects[task].value, sd / math.sqrt(n), n - 1, alpha)
    mean: Estimate | None = None
    df = p = None
    if not without:
        mean = Estimate(value=math.fsum(e.value for e in effects.values()) / len(effects))
        total = math.fsum(v for v, _ in variances)
        if total:
            error = math.sqrt(total) / len(effects)
            df = total**2 / math.fsum(v * v / f for v, f in variances)
            p = t_two_sided(mean.value / error, df)
            mean = interval(mean.value, error, df, alpha)
    return TaskMean(effects=effects, without=tuple(without), left_out=left_out, mean=mean, df=df, p=p)


def iqm(
    scores: Mapping[str, Mapping[str, Scores]],
    scales: Mapping[str, Scale],
    *,
    baseline: str,
    alpha: float = 0.05,
    draws: int = DRAWS,
    seed: int = 0,
) -> Iqm:
    """Mean of the middle half of all scaled scores of an arm (Agarwal et al. 2021, NeurIPS), with bootstrap intervals.

    `scores[arm][task]` holds one score a seed; score i of every arm belongs to one seed. A quarter of the scores,
    rounded down, is cut off at either end. Each of `draws` bootstrap samples draws seeds with replacement within each
    task, the same for every arm, so that differences stay paired; intervals are percentiles. They cover too little for
    few seeds (.85 instead of .95 over 4 tasks at 3 seeds), so quote `paired` and `over_tasks` for claims.
    Where a task has fewer than 3 seeds there are no intervals.

    Raises ValueError for an unknown baseline, arms with different tasks or seeds, a task without a seed that every arm
    has, infinite values, fewer than 100 or more than 100,000 draws, or alpha outside (0, 1).
    """
    share("alpha", alpha)
    if baseline not in scores:
        raise ValueError(
            f"baseline {baseline!r} is not among the arms: {', '.join(sorted(scores)) or 'there are none'}."
        )
    if not 100 <= draws <= MOST_DRAWS:
        raise ValueError(f"draws must lie between 100 and {MOST_DRAWS:,}, got {draws}.")
    _same_tasks({"scales": scales, **scores})
    generator = np.random.Generator(np.random.PCG64(seed))
    n, left_out, plain, drawn = {}, 0, [], []
    arms = sorted(scores)
    for task in sorted(scales):
        score_AS, missed = _shared_seeds(task, {arm: scores[arm][task] for arm in arms})
        left_out += missed
        n[task] = score_AS.shape[1]
        plain.append(scales[task].share(score_AS))
        drawn.append(plain[-1][:, generator.integers(0, n[task], size=(draws, n[task]))])
    value_A = _middle(np.concatenate(plain, axis=1))
    value_AR = _middle(np.concatenate(drawn, axis=2))
    at = arms.index(baseline)
    if min(n.values()) < FEWEST:
        value_AR = np.broadcast_to(value_A[:, None], value_AR.shape)
    rows = {arm: _percentile(value_A[i], value_AR[i], alpha) for i, arm in enumerate(arms)}
    against = {
        arm: _percentile(value_A[i] - value_A[at], value_AR[i] - value_AR[at], alpha)
        for i, arm in enumerate(arms)
        if i != at
    }
    return Iqm(means=rows, differences=against, n=n, left_out=left_out)


def _same_tasks(named: Mapping[str, Mapping[str, object]]) -> None:
    first, *others = named
    if not named[first]:
        raise ValueError("there are no tasks.")
    for name in others:
        if odd := sorted(set(named[first]) ^ set(named[name])):
            raise ValueError(f"{first} and {name} must name the same tasks; only one of them has {', '.join(odd)}.")


def _shared_seeds(task: str, scores: Mapping[str, Scores]) -> tuple[Floats, int]:
    rows = [values(f"scores of arm {arm!r} on task {task!r}", given) for arm, given in scores.items()]
    if len({row.size for row in rows}) > 1:
        message = f"arms have different numbers of seeds on task {task!r}; give NaN where a run is missing."
        raise ValueError(message)
    score_AS = np.stack(rows)
    complete_S = ~np.isnan(score_AS).any(axis=0)
    if not complete_S.any():
        raise ValueError(f"task {task!r} has no seed that every arm has. Leave the task or the missing arm out.")
    score_AS = score_AS[:, complete_S]
    return score_AS[:, np.lexsort(score_AS)], int((~complete_S).sum())


def _middle(score: Floats) -> Floats:
    cut = score.shape[-1] // 4
    return np.sort(score, axis=-1)[..., cut : score.shape[-1] - cut].mean(axis=-1)


def _percentile(value: float, drawn_R: Floats, alpha: float) -> Estimate:
    if not np.ptp(drawn_R):
        return Estimate(value=float(value))
    low, high = np.quantile(drawn_R, [alpha / 2, 1 - alpha / 2])
    return Estimate(value=float(value), low=float(low), high=float(high))
