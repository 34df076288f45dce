"""Metric: how good a prediction is, one unit at a time."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import attrs

from core.kinds.plugin import Plugin

if TYPE_CHECKING:
    import numpy as np


class Metric(Plugin):
    """A score of one unit (a section, a chromosome, a perturbation). Units are the atoms: they are never split.

    Some metrics need more than a prediction and its truth (`needs`): cell types, places, several draws. `score` takes
    these behind the two arrays, in the order of `needs`. Where an evaluation cannot give them, the metric is left out.

    Laws (`core.testing.metric.MetricLaws`): a perfect prediction reaches `best`; scores are finite for any finite
    input, also a constant prediction; permuting items of prediction and truth together changes nothing; merging
    tallies is associative, commutative and equal to one pass.
    """

    KIND: ClassVar[str] = "metric"
    of: ClassVar[str]
    """the output field it reads: `expression`, `position`; or `joint`, items that were made and have no true partner"""
    needs: ClassVar[tuple[str, ...]] = ()
    """what `score` takes behind prediction and truth, by name:

    - `cell_type` (N,): whole numbers, -1 where unknown;
    - `place` (N, P): true positions;
    - `draws` (K, N, F): samples of the prediction;
    - `made_place` (M, P), `known` (n, F), `known_place` (n, P): of a `joint` metric, whose prediction is the expression
      (M, F) of cells that were made: where they are, and expression and place of training cells.
    """
    higher: ClassVar[bool]
    """whether more is better"""
    best: ClassVar[float]
    """the value of a perfect prediction"""
    label: ClassVar[str]
    """what tables and figures call it, with its unit"""

    @abstractmethod
    def score(self, predicted: np.ndarray, true: np.ndarray) -> float:
        """The score of one unit; both arrays are (N, ...) float, one row an item.

        A metric with `needs` takes these behind, each with a default, so that it remains a `Metric`.
        """


def key(metric: Metric) -> str:
    """A short column name: the class in snake case, with the parameters that differ from their defaults."""
    name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", type(metric).__name__).lower()
    said = [f for f in attrs.fields(type(metric)) if getattr(metric, f.name) != f.default]  # type: ignore[arg-type]
    return name + (f"({', '.join(f'{f.name}={getattr(metric, f.name)}' for f in said)})" if said else "")


def title(metric: Metric) -> str:
    """The label, with the parameters that differ from their defaults: two settings of one metric are told apart."""
    said = key(metric).partition("(")[2].removesuffix(")")
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
