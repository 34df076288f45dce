"""One prediction and its rivals before the same truth: values, intervals over conditions, ceiling, calibrated scores.

P conditions, n cells of one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import final

import attrs
import numpy as np

from core.kinds.comparison import Comparison, Truth, Undefined
from core.kinds.metric import Doubling, Graded, GroupMetric, key, title
from core.kinds.system import Score
from core.score import CEILING, MODEL

DRAWS = 1000
"""resamples of the conditions behind an interval"""
SPLITS = 3
"""divisions of the real cells into halves behind a ceiling"""
FEWEST = 4
"""cells of a condition that can be halved"""
LEVEL = 0.95
"""of intervals"""

Groups = Mapping[str, np.ndarray]


@final
@attrs.frozen(kw_only=True)
class Result:
    """One metric of one arm."""

    arm: str
    metric: GroupMetric
    graded: Graded
    low: float
    high: float
    """the interval over conditions, by resampling them"""
    calibrated: float | None = None
    """0 for the baseline, 1 for the ceiling; None where the ceiling lies within the baseline's interval"""


@final
@attrs.frozen(kw_only=True)
class Judged:
    """Everything that was scored."""

    results: tuple[Result, ...]
    ceiling: Mapping[str, float]
    """metric column -> what the real cells score against themselves"""
    baseline: str | None
    """the arm whose calibrated score is 0"""
    notes: tuple[str, ...]

    def of(self, arm: str, column: str) -> Result | None:
        """One result; None where the metric could not be given."""
        return next((r for r in self.results if r.arm == arm and key(r.metric) == column), None)

    def scores(self, task: str) -> tuple[Score, ...]:
        """The results and the ceiling as cells of a final table; descriptions, which have no best value, left out."""
        judging = [r for r in self.results if r.metric.best is not None]
        made = [_score(task, r.arm, r.metric, r.graded.value, dict(r.graded.groups)) for r in judging]
        by_column = {key(r.metric): r.metric for r in judging}
        made += [_score(task, CEILING, by_column[c], value, {}) for c, value in self.ceiling.items() if c in by_column]
        return tuple(made)


def _score(task: str, arm: str, metric: GroupMetric, value: float, units: dict[str, float]) -> Score:
    return Score(
        task=task, arm=arm, metric=key(metric), value=value, higher=metric.higher, label=title(metric), units=units
    )


def judge(
    truth: Truth,
    arms: Mapping[str, Groups],
    metrics: Sequence[GroupMetric],
    rng: np.random.Generator,
    *,
    ceiling: bool = True,
    baselines: Sequence[str] = ("perturbed mean", "control mean"),
) -> Judged:
    """Score every arm by every metric.

    Args:
        truth: real cells by condition and the real controls, which every arm is measured from.
        arms: cells by condition; the model's own arm is `core.score.MODEL`.
        metrics: what is scored; one that the truth leaves undefined becomes a note.
        rng: resamples of conditions and halves of cells.
        ceiling: whether the real cells are scored against themselves.
        baselines: arms of which the first that is there has the calibrated score 0.

    Raises:
        ValueError: an arm holds other conditions than the truth.
    """
    compared = {arm: truth.against(groups) for arm, groups in arms.items()}
    found, undefined = _graded(compared, metrics)
    best = halves(truth, [m for m in metrics if key(m) not in undefined], rng) if ceiling else {}
    zero = next((name for name in baselines if name in arms and name != MODEL), None)
    spans = {place: interval(graded, rng) for place, (_, graded) in found.items()}
    results = []
    for (arm, column), (metric, graded) in found.items():
        low, high = spans[arm, column]
        start = (zero or "", column)
        calibrated = None
        if start in found and column in best and metric.best is not None:
            reach = spans[start][1] if metric.higher else spans[start][0]
            if calibrate(reach, reach, best[column], higher=metric.higher) is not None:
                calibrated = calibrate(graded.value, found[start][1].value, best[column], higher=metric.higher)
        results.append(Result(arm=arm, metric=metric, graded=graded, low=low, high=high, calibrated=calibrated))
    notes = tuple(f"{column} is left out: {reason}." for column, reason in undefined.items())
    return Judged(results=tuple(results), ceiling=best, baseline=zero, notes=notes)


def _graded(
    compared: Mapping[str, Comparison], metrics: Sequence[GroupMetric]
) -> tuple[dict[tuple[str, str], tuple[GroupMetric, Graded]], dict[str, str]]:
    """Scores by arm and column, and why some columns have none."""
    found, undefined = {}, {}
    for metric in metrics:
        for arm, comparison in compared.items():
            try:
                found[arm, key(metric)] = metric, metric.score(comparison)
            except Undefined as error:
                undefined[key(metric)] = str(error)
    return found, undefined


def interval(graded: Graded, rng: np.random.Generator, draws: int = DRAWS) -> tuple[float, float]:
    """Where the value lies when conditions are drawn anew with replacement, in 95 % of draws (percentiles)."""
    if graded.over is None or graded.judged < 2:
        return graded.value, graded.value
    values = [graded.over(rng.integers(graded.judged, size=graded.judged)) for _ in range(draws)]
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def halves(truth: Truth, metrics: Sequence[GroupMetric], rng: np.random.Generator) -> dict[str, float]:
    """The ceiling by metric column: one half of each condition's real cells as a prediction of the other half.

    The mean over `SPLITS` divisions, brought from half the cells to all of them as the metric's `doubling` says. A
    metric that says nothing keeps its value at half the cells, which makes the ceiling a cautious one. Conditions
    with fewer than `FEWEST` cells are left out.
    """
    whole = {name: table for name, table in truth.groups.items() if len(table) >= FEWEST}
    values: dict[str, list[float]] = {key(metric): [] for metric in metrics}
    for _ in range(SPLITS if whole else 0):
        order = {name: rng.permutation(len(table)) for name, table in whole.items()}
        middle = {name: len(table) // 2 for name, table in whole.items()}
        half = attrs.evolve(truth, groups={n: whole[n][order[n][: middle[n]]] for n in whole})
        comparison = half.against({n: whole[n][order[n][middle[n] : 2 * middle[n]]] for n in whole})
        for column, (_, graded) in _graded({MODEL: comparison}, metrics)[0].items():
            values[column[1]].append(graded.value)
    return {key(m): _whole(float(np.mean(values[key(m)])), m.doubling) for m in metrics if values[key(m)]}


def _whole(half: float, doubling: Doubling) -> float:
    """The score of all cells from that of half of them; a reliability that is not above 0 stays as it is."""
    if doubling == "reliability":
        return 2 * half / (1 + half) if half > 0 else half
    return half * {"none": 1.0, "squared": 0.5, "absolute": 0.5**0.5}[doubling]


def calibrate(value: float, baseline: float, ceiling: float, *, higher: bool) -> float | None:
    """(value - baseline) / (ceiling - baseline); None where the ceiling is not better than the baseline."""
    room = ceiling - baseline if higher else baseline - ceiling
    if room <= 1e-9:
        return None
    return (value - baseline if higher else baseline - value) / room
