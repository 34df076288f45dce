"""Comparison: groups of items that were predicted, beside the true ones. n items of a group, F features.

A group is whatever a prediction is made for as a whole: the cells of one treatment, the reads of one site. Which item
answers which is not known, so that groups are compared as samples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar, final

import attrs
import numpy as np

T = TypeVar("T")


class Undefined(ValueError):
    """The truth holds nothing that a metric could judge (no group with an effect, no known group means)."""


def _table(values: np.ndarray, what: str, features: int) -> np.ndarray:
    """(n, F) float32.

    Raises:
        ValueError: another shape, no item, or a value that is not finite.
    """
    table = np.asarray(values, np.float32)
    if table.ndim != 2 or table.shape[1] != features or not len(table):
        raise ValueError(f"{what} is {np.shape(values)}; at least one item of {features} features is wanted, (n, F)")
    if not np.isfinite(table).all():
        raise ValueError(f"{what} holds values that are not finite in float32")
    return table


@final
@attrs.frozen(kw_only=True, eq=False)
class Truth:
    """The true groups, a reference group, and what is known of other groups. Groups are in the order of their names.

    Raises:
        ValueError: no group, no feature, arrays of another width, or values that are not finite.
    """

    groups: Mapping[str, np.ndarray]
    """(n, F) each; float32"""
    reference: np.ndarray
    """(n, F) float32: items that effects are measured from; the same for truth and prediction"""
    features: tuple[str, ...]
    known: Mapping[str, np.ndarray] = attrs.field(factory=dict)
    """(F,) each: the means of groups that the model was trained on; none where that is not known"""
    own: Mapping[str, str] = attrs.field(factory=dict)
    """group -> the feature that stands for the group itself, where that is not the feature of the group's name"""
    _kept: dict[Callable, Any] = attrs.field(factory=dict, init=False)

    def __attrs_post_init__(self) -> None:
        width = len(self.features)
        if not self.groups or not width:
            raise ValueError(f"{len(self.groups)} groups of {width} features leave nothing to compare")
        tables = {name: _table(self.groups[name], f"group {name!r}", width) for name in sorted(self.groups)}
        object.__setattr__(self, "groups", tables)
        object.__setattr__(self, "reference", _table(self.reference, "the reference group", width))
        means = {name: _table(self.known[name][None], f"mean {name!r}", width)[0] for name in sorted(self.known)}
        object.__setattr__(self, "known", means)

    def once(self, make: Callable[[Truth], T]) -> T:
        """What `make` says of this truth, worked out once: many predictions are judged by it."""
        if make not in self._kept:
            self._kept[make] = make(self)
        return self._kept[make]

    def against(self, predicted: Mapping[str, np.ndarray]) -> Comparison:
        """A prediction beside this truth.

        Raises:
            ValueError: it holds other groups, or arrays that are no items of these features.
        """
        return Comparison(truth=self, predicted=predicted)


@final
@attrs.frozen(kw_only=True, eq=False)
class Comparison:
    """One prediction beside the truth."""

    truth: Truth
    predicted: Mapping[str, np.ndarray]
    """(n, F) float32 each; groups as in the truth, their sizes may differ"""
    _kept: dict[Callable, Any] = attrs.field(factory=dict, init=False)

    def __attrs_post_init__(self) -> None:
        differ = sorted(self.predicted.keys() ^ self.truth.groups.keys())
        if differ:
            raise ValueError(f"prediction and truth must hold the same groups; these stand on one side only: {differ}")
        width = len(self.truth.features)
        tables = {name: _table(self.predicted[name], f"predicted {name!r}", width) for name in self.truth.groups}
        object.__setattr__(self, "predicted", tables)

    @property
    def groups(self) -> tuple[str, ...]:
        """Names of the groups, sorted."""
        return tuple(self.truth.groups)

    def once(self, make: Callable[[Comparison], T]) -> T:
        """What `make` says of this comparison, worked out once: many metrics read it."""
        if make not in self._kept:
            self._kept[make] = make(self)
        return self._kept[make]
