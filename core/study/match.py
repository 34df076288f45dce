"""Arms that cost the same: one parameter is turned until an arm has the baseline's size."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import attrs

from core.config import Resolved
from core.errors import UserError
from core.train.cost import Cost

COUNTED = {"params": "parameters", "active": "active parameters", "flops": "FLOPs a step"}
FARTHEST = 64.0
"""how many times larger or smaller a parameter may become"""
TRIES = 40


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
    if setting is None or isinstance(setting.value, bool) or not isinstance(setting.value, (int, float)):
        raise UserError(
            f"E-BUDGET: {name} has no number {key or '(the system names none)'} that could be turned to match "
            f"{COUNTED[what]}. Say another with --match-on KEY, or leave --match out"
        )
    search = _Search(what, key, wanted, at, cost_of, isinstance(setting.value, int))
    search.note(setting.value, start)
    best = search.run(float(setting.value))
    off = amount(best.cost, what) / wanted - 1
    if abs(off) > tolerance:
        raise UserError(
            f"E-BUDGET: {name} cannot match {wanted:,} {COUNTED[what]} within {tolerance:.2%}: nearest "
            f"{amount(best.cost, what):,} ({off:+.2%}) at {key} = {search.value_of(best)}. Raise --tolerance, turn "
            "something else with --match-on KEY, or match another quantity"
        )
    return best


class _Search:
    """A bracket around the wanted amount, narrowed by interpolation and halving in turn."""

    def __init__(self, what: str, key: str, wanted: int, at: Callable[[Any], Resolved],
                 cost_of: Callable[[Resolved], Cost], whole: bool) -> None:  # fmt: skip
        self.what, self.key, self.wanted, self.at, self.cost_of, self.whole = what, key, wanted, at, cost_of, whole
        self.tried: dict[float, Matched] = {}

    def note(self, value: float, found: Matched) -> int:
        self.tried[value] = found
        return amount(found.cost, self.what)

    def value_of(self, found: Matched) -> float:
        return next(value for value, one in self.tried.items() if one is found)

    def run(self, start: float) -> Matched:
        low, high = start, start
        while self._amount(low) > self.wanted and low > start / FARTHEST:
            low /= 2
        while self._amount(high) < self.wanted and high < start * FARTHEST:
            high *= 2
        for turn in range(TRIES):
            under, over = self._amount(low), self._amount(high)
            if not under < self.wanted < over:
                break
            share = (self.wanted - under) / (over - under) if turn % 3 < 2 else 0.5
            middle = self._round(low + (high - low) * min(max(share, 0.01), 0.99))
            if middle in (self._round(low), self._round(high)):
                break
            low, high = (middle, high) if self._amount(middle) <= self.wanted else (low, middle)
        return min(self.tried.values(), key=lambda one: abs(amount(one.cost, self.what) - self.wanted))

    def _round(self, value: float) -> float:
        return max(1, round(value)) if self.whole else float(f"{value:.5g}")

    def _amount(self, value: float) -> int:
        value = self._round(value)
        if value not in self.tried:
            said = int(value) if self.whole else value
            resolved = self.at(said)
            self.note(value, Matched(resolved=resolved, cost=self.cost_of(resolved), turned={self.key: said}))
        return amount(self.tried[value].cost, self.what)
