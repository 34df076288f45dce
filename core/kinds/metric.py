"""Metric: how good a prediction is, one unit at a time; or all its groups together."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import ClassVar, Literal

import attrs
import numpy as np

from core.kinds.comparison import Comparison, Undefined
from core.kinds.plugin import Plugin

Doubling = Literal["none", "reliability", "squared", "absolute"]


class Measure(Plugin):
    """What every metric says of itself. One inherits from `Metric` or `GroupMetric`, by what it looks at."""

    KIND: ClassVar[str] = "metric"
    of: ClassVar[str]
    """the output field it reads: `expression`, `position`; or `joint`, items that were made and have no true partner"""
    higher: ClassVar[bool]
    """whether more is better"""
    best: ClassVar[float | None]
    """the value of a perfect prediction; None where a number describes and judges nothing"""
    label: ClassVar[str]
    """what tables and figures call it, with its unit"""

    def column(self) -> str:
        """A short column name: the class in snake case, with the parameters that differ from their defaults."""
        name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", type(self).__name__).lower()
        said = _said(self)
        return f"{name}({said})" if said else name


class Metric(Measure):
    """A score of one unit (a section, a chromosome, a perturbation). Units are the atoms: they are never split.

    Some metrics need more than a prediction and its truth (`needs`): cell types, places, several draws. `score` takes
    these behind the two arrays, in the order of `needs`. Where an evaluation cannot give them, the metric is left out.

    Laws (`core.testing.metric.MetricLaws`): a perfect prediction reaches `best`; scores are finite for any finite
    input, also a constant prediction; permuting items of prediction and truth together changes nothing; merging
    tallies is associative, commutative and equal to one pass.
    """

    best: ClassVar[float]
    needs: ClassVar[tuple[str, ...]] = ()
    """what `score` takes behind prediction and truth, by name:

    - `cell_type` (N,): whole numbers, -1 where unknown;
    - `place` (N, P): true positions;
    - `draws` (K, N, F): samples of the prediction;
    - `made_place` (M, P), `known` (n, F), `known_place` (n, P): of a `joint` metric, whose prediction is the expression
      (M, F) of cells that were made: where they are, and expression and place of training cells.
    """

    @abstractmethod
    def score(self, predicted: np.ndarray, true: np.ndarray) -> float:
        """The score of one unit; both arrays are (N, ...) float, one row an item.

        A metric with `needs` takes these behind, each with a default, so that it remains a `Metric`.
        """


@attrs.frozen
class Graded:
    """What a metric says of a comparison."""

    value: float
    groups: Mapping[str, float] = attrs.field(factory=dict)
    """the score by group, for paired statistics; empty where a metric has one value over all groups"""
    judged: int = 0
    """how many groups the value rests on"""
    over: Callable[[np.ndarray], float] | None = None
    """the value over some of these groups, given by number, with repeats: for intervals over groups"""

    @classmethod
    def mean(cls, groups: Mapping[str, float], reason: str = "") -> Graded:
        """The mean over groups, each counted once.

        Raises:
            Undefined: there is no group; `reason` says why.
        """
        if not groups:
            raise Undefined(reason or "no group can be judged")
        scores = np.array([*groups.values()])
        return cls(float(scores.mean()), groups, len(scores), lambda chosen: float(scores[chosen].mean()))


class GroupMetric(Measure):
    """A score of predicted groups of items beside the true ones. Groups are samples: no item has a partner.

    Laws (`core.testing.group_metric.GroupMetricLaws`): the truth as its own prediction reaches `best`, and nothing
    passes it; scores are finite for any finite input, also for constant predictions, groups of one item and features
    that never vary; the order of items, groups and features changes nothing, nor do other names of the groups;
    neither prediction nor truth is written to.
    """

    unbiased: ClassVar[bool] = False
    """whether `best` is the expectation over samples of the same law, so that single values pass it"""
    doubling: ClassVar[Doubling] = "none"
    """what twice the items do to the score of one sample of the truth as the prediction of another:

    - `reliability`: r becomes 2 r / (1 + r) (Spearman 1910, Brown 1910, Br. J. Psychol. 3:271, 3:296);
    - `squared`: it is noise alone and falls to a half; `absolute`: to the root of a half;
    - `none`: nothing that a formula says.
    """

    @abstractmethod
    def score(self, comparison: Comparison) -> Graded:
        """The score of all groups.

        A group in whose truth there is nothing to judge is left out, whatever was predicted for it.

        Raises:
            Undefined: that holds for every group, or something that the metric needs is not known.
        """


def _said(metric: Measure) -> str:
    """The parameters that differ from their defaults."""
    said = [f for f in attrs.fields(type(metric)) if getattr(metric, f.name) != f.default]  # type: ignore[arg-type]
    return ", ".join(f"{f.name}={getattr(metric, f.name)}" for f in said)


def key(metric: Measure) -> str:
    """A short column name; see `Measure.column`."""
    return metric.column()


def title(metric: Measure) -> str:
    """The label, with the parameters that differ from their defaults: two settings of one metric are told apart."""
    said = _said(metric)
    return f"{metric.label}, {said}" if said else metric.label


@attrs.define
class Tally:
    """Scores of one metric by unit: streaming, and exactly mergeable over processes."""

    metric: Metric
    scores: dict[str, float] = attrs.field(factory=dict)

    def update(
        self, unit: str, predicted: np.ndarray, true: np.ndarray, beside: Mapping[str, np.ndarray] | None = None
    ) -> None:
        """Score one unit; one for which `beside` lacks what the metric needs is left out.

        Raises:
            ValueError: the unit was scored before.
        """
        if unit in self.scores:
            raise ValueError(f"unit {unit!r} was scored twice")
        beside = beside or {}
        if all(name in beside for name in self.metric.needs):
            more = [beside[name] for name in self.metric.needs]
            self.scores[unit] = float(self.metric.score(predicted, true, *more))

    def merge(self, other: Tally) -> Tally:
        """Both tallies as one.

        Raises:
            ValueError: they share a unit.
        """
        both = self.scores.keys() & other.scores.keys()
        if both:
            raise ValueError(f"units {sorted(both)} were scored in both tallies")
        return Tally(self.metric, dict(sorted({**self.scores, **other.scores}.items())))

    def value(self) -> float:
        """The mean over units, each counted once; nan without units."""
        return sum(self.scores[u] for u in sorted(self.scores)) / len(self.scores) if self.scores else float("nan")
