"""The interquartile mean over several tasks: a description beside the tests, never a test.

Shape legend: A arms, S seeds (their number may differ between tasks), R bootstrap draws.
"""

from __future__ import annotations

from collections.abc import Mapping

import attrs
import numpy as np

from core.study.stats.aggregate import Scale, same_tasks
from core.study.stats.scores import FEWEST, Estimate, Floats, Scores, share, values

DRAWS = 10_000
MOST_DRAWS = 100_000


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
    same_tasks({"scales": scales, **scores})
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
