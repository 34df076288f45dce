"""Metric: how good a prediction is, one unit at a time."""

from __future__ import annotations

import re
from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar

import attrs

from core.kinds.plugin import Plugin

if TYPE_CHECKING:
    import numpy as np


class Metric(Plugin):
    """A score of one unit (a section, a chromosome, a perturbation). Units are the atoms: they are never split.

    Laws (`core.testing.metric.MetricLaws`): a perfect prediction reaches `best`; scores are finite for any finite
    input, also a constant prediction; permuting items of prediction and truth together changes nothing; merging
    tallies is associative, commutative and equal to one pass.
    """

    KIND: ClassVar[str] = "metric"
    of: ClassVar[str]
    """the output field it reads: `expression`, `position`"""
    higher: ClassVar[bool]
    """whether more is better"""
    best: ClassVar[float]
    """the value of a perfect prediction"""
    label: ClassVar[str]
    """what tables and figures call it, with its unit"""

    @abstractmethod
    def score(self, predicted: np.ndarray, true: np.ndarray) -> float:
        """The score of one unit; both arrays are (N, ...) float, one row an item."""


def key(metric: Metric) -> str:
    """A short column name: the class in snake case, with the parameters that differ from their defaults."""
    name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", type(metric).__name__).lower()
    said = [f for f in attrs.fields(type(metric)) if getattr(metric, f.name) != f.default]  # type: ignore[arg-type]
    return name + (f"({', '.join(f'{f.name}={getattr(metric, f.name)}' for f in said)})" if said else "")


@attrs.define
class Tally:
    """Scores of one metric by unit: streaming, and exactly mergeable over processes."""

    metric: Metric
    scores: dict[str, float] = attrs.field(factory=dict)

    def update(self, unit: str, predicted: np.ndarray, true: np.ndarray) -> None:
        """Score one unit.

        Raises:
            ValueError: the unit was scored before.
        """
        if unit in self.scores:
            raise ValueError(f"unit {unit!r} was scored twice")
        self.scores[unit] = float(self.metric.score(predicted, true))

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
