"""Arms that cost the same: one parameter is turned until an arm has the baseline's size."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import attrs

from core.config import Resolved
from core.errors import UserError
from core.names import near
from core.train.cost import Cost

COUNTED = {"params": "parameters", "active": "active parameters", "flops": "FLOPs a step"}
FARTHEST = 64.0
"""how many times larger or smaller a parameter may become"""
TRIES = 40
FINEST = 1e-3
"""relative width of a bracket below which a size that grows in steps comes no nearer"""
REACH = 16
"""whole numbers on either side among which one that can be built is looked for"""


@attrs.frozen(kw_only=True)
class Matched:
    """A configuration with its cost, and what was turned to get there."""

    resolved: Resolved
    cost: Cost
    turned: Mapping[str, Any] = attrs.field(factory=dict)


def amount(cost: Cost, what: str) -> int:
    """The number that is matched."""
    return {"params": cost.parameters, "active": cost.active, "flops": cost.flops}[what]


def match(
    what: str, key: str, goal: Cost, tolerance: float, name: str, start: Matched,
    at: Callable[[Any], Resolved], cost_of: Callable[[Resolved], Cost],
) -> Matched:  # fmt: skip
    """Turn `key` until the arm costs what the baseline does, as nearly as it can be.

    Args:
        what: `params`, `active` or `flops`.
        key: the parameter, a whole number or a float greater than 0 on which the cost grows.
        goal: of the baseline.
        tolerance: largest relative difference.
        name: of the arm, for messages.
        start: the arm as it is.
        at: a value -> the configuration with it.
        cost_of: its cost.

    Raises:
        UserError: E-BUDGET: there is no such parameter, or no value comes near enough.
    """
    wanted = amount(goal, what)
    if amount(start.cost, what) == wanted:
        return start
    setting = start.resolved.settings.get(key)
    if key and setting is None:
        known = [path for path, s in start.resolved.settings.items() if type(s.value) in (int, float)]
        raise UserError(f"--match-on: {name} has no parameter {key!r}.{near(key, known)}")
    if setting is None or isinstance(setting.value, bool) or not isinstance(setting.value, (int, float)):
        raise UserError(
            f"E-BUDGET: {name} has no number {key or '(the system names none)'} that could be turned to match "
            f"{COUNTED[what]}. Say another with --match-on KEY, or leave --match out"
        )
    if setting.value <= 0 or not wanted:
        raise UserError(
            f"E-BUDGET: {name}: {key} = {setting.value} cannot be turned to match {wanted:,} {COUNTED[what]}; both are "
            "to be greater than 0. Say another with --match-on KEY, or leave --match out"
        )
    search = _Search(what, key, wanted, at, cost_of, isinstance(setting.value, int))
    search.note(setting.value, start)
    best = search.run(float(setting.value))
    off = amount(best.cost, what) / wanted - 1
    if abs(off) > tolerance:
        raise UserError(
            f"E-BUDGET: {name} cannot match {wanted:,} {COUNTED[what]} within {tolerance:.2%}: nearest "
            f"{amount(best.cost, what):,} ({off:+.2%}) at {key} = {search.value_of(best):g}. Raise --tolerance, turn "
            "something else with --match-on KEY, or match another quantity"
        )
    return best


class _Search:
    """A bracket around the wanted amount, narrowed by interpolation and halving in turn."""

    def __init__(self, what: str, key: str, wanted: int, at: Callable[[Any], Resolved],
                 cost_of: Callable[[Resolved], Cost], whole: bool) -> None:  # fmt: skip
        self.what, self.key, self.wanted, self.at, self.cost_of, self.whole = what, key, wanted, at, cost_of, whole
        self.tried: dict[float, Matched | None] = {}
        """what a value gives; None where nothing can be built with it"""

    def note(self, value: float, found: Matched | None) -> None:
        self.tried[value] = found

    def value_of(self, found: Matched) -> float:
        return next(value for value, one in self.tried.items() if one is found)

    def run(self, start: float) -> Matched:
        low, high = self._widened(start)
        for turn in range(TRIES):
            under, over = self._amount(low), self._amount(high)
            if not under < self.wanted < over or high - low <= FINEST * high:
                break
            share = (self.wanted - under) / (over - under) if turn % 3 < 2 else 0.5
            middle = self._between(low, high, min(max(share, 0.01), 0.99)) or self._between(low, high, 0.5)
            if middle is None:
                break
            low, high = (middle, high) if self._amount(middle) <= self.wanted else (low, middle)
        found = [one for one in self.tried.values() if one is not None]
        return min(found, key=lambda one: abs(amount(one.cost, self.what) - self.wanted))

    def _widened(self, start: float) -> tuple[float, float]:
        """Two values around the wanted amount, as far as doubling and halving go."""
        low = high = start
        while self._amount(low) > self.wanted:
            found = self._nearest(low / 2, start / FARTHEST, low)
            if found is None or found == low:
                break
            low = found
        while self._amount(high) < self.wanted:
            found = self._nearest(high * 2, high, start * FARTHEST)
            if found is None or found == high:
                break
            high = found
        return low, high

    def _between(self, low: float, high: float, share: float) -> float | None:
        found = self._nearest(low + (high - low) * share, low, high)
        return None if found in (low, high) else found

    def _nearest(self, value: float, least: float, most: float) -> float | None:
        """The value nearest to this one that the arm can be built with: a width is to be divisible by heads."""
        value = self._round(value)
        for offset in sorted(range(-REACH, REACH + 1), key=abs) if self.whole else [0]:
            near = value + offset
            if near > 0 and least <= near <= most and self._found(near) is not None:
                return near
        return None

    def _round(self, value: float) -> float:
        return float(max(1, round(value))) if self.whole else float(f"{value:.5g}")

    def _found(self, value: float) -> Matched | None:
        if value not in self.tried:
            said = int(value) if self.whole else value
            try:
                resolved = self.at(said)
                self.note(value, Matched(resolved=resolved, cost=self.cost_of(resolved), turned={self.key: said}))
            except UserError:
                self.note(value, None)
        return self.tried[value]

    def _amount(self, value: float) -> int:
        found = self._found(value)
        assert found is not None, "only values that can be built are searched"
        return amount(found.cost, self.what)
