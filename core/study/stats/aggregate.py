"""Several tasks at once: the mean effect over them.

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
        """The way from trivial to best that each score has gone; ValueError where the scale is far too small for it."""
        with np.errstate(over="ignore"):
            shares = (score - self.trivial) / (self.best - self.trivial)
        return values("a score as shares of the scale", shares, dims=score.ndim)


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


def over_tasks(
    base: Mapping[str, Scores], arm: Mapping[str, Scores], scales: Mapping[str, Scale], *, alpha: float = 0.05
) -> TaskMean:
    """The unweighted mean of the tasks' paired effects, with its t interval; the tasks are fixed, not a sample.

    Standard error sqrt(sum_d s_d^2 / n_d) / D, degrees of freedom by Welch (1947, Biometrika 34:28) and Satterthwaite;
    it speaks of new seeds on these tasks, not of other tasks. Differences of different tasks count as independent.

    Raises ValueError where the three mappings name different tasks, for infinite values, or alpha outside (0, 1).
    """
    share("alpha", alpha)
    same_tasks({"base": base, "arm": arm, "scales": scales})
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
            df = 1 / math.fsum((v / total) ** 2 / f for v, f in variances)
            p = t_two_sided(mean.value / error, df)
            mean = interval(mean.value, error, df, alpha)
    return TaskMean(effects=effects, without=tuple(without), left_out=left_out, mean=mean, df=df, p=p)


def same_tasks(named: Mapping[str, Mapping[str, object]]) -> None:
    """ValueError unless all of `named`, each with what to call it, have the same tasks, and at least one."""
    first, *others = named
    if not named[first]:
        raise ValueError("there are no tasks.")
    for name in others:
        if odd := sorted(set(named[first]) ^ set(named[name])):
            raise ValueError(f"{first} and {name} must name the same tasks; only one of them has {', '.join(odd)}.")
