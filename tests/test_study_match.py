"""Arms that cost the same: the search for a value that gives an arm the baseline's size."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from core.errors import UserError
from core.study.match import FARTHEST, Matched, match
from core.train.cost import Cost

LIMITS = settings(deadline=None, max_examples=80)


def cost(parameters: int) -> Cost:
    return Cost(parameters=parameters, active=parameters // 2, flops=parameters * 3, by_part={})


def arm(value: Any) -> Any:
    """A configuration with one number."""
    return SimpleNamespace(settings={"width": SimpleNamespace(value=value)}, value=value)


def search(size: Any, start: Any, wanted: int, tolerance: float = 0.02, divisor: int = 1, key: str = "width",
           what: str = "params") -> tuple[Matched, list[Any]]:  # fmt: skip
    """Match an arm whose size at a value is `size(value)` and which is built only with multiples of `divisor`."""
    asked: list[Any] = []

    def at(value: Any) -> Any:
        asked.append(value)
        if divisor > 1 and value % divisor:
            raise UserError(f"{value} is not divisible by {divisor}")
        return arm(value)

    goal = {"params": cost(wanted), "active": cost(2 * wanted), "flops": cost(wanted // 3)}[what]
    found = match(
        what, key, goal, tolerance, "ffn=moe", Matched(resolved=arm(start), cost=cost(size(start))), at,
        lambda resolved: cost(size(resolved.value)),
    )  # fmt: skip
    return found, asked


@LIMITS
@given(
    start=st.floats(0.01, 100),
    slope=st.integers(100, 10**6),
    base=st.integers(0, 10**5),
    power=st.sampled_from([0.5, 1, 2]),
    turn=st.floats(0.05, 20),
)
def test_a_smooth_size_is_matched(start: float, slope: int, base: int, power: float, turn: float) -> None:
    """Whatever power of the value the size grows with, a float is turned until the arm lies within tolerance."""

    def size(value: float) -> int:
        return base + round(slope * value**power)

    wanted = size(start * turn)
    assume(wanted > 1000)
    found, asked = search(size, start, wanted)
    assert abs(found.cost.parameters / wanted - 1) <= 0.02
    assert found.turned in ({}, {"width": found.resolved.value})
    assert len(asked) < 60
    assert all(0 < value <= start * FARTHEST for value in asked)


@LIMITS
@given(heads=st.sampled_from([1, 2, 3, 4, 8]), start=st.integers(1, 12), best=st.integers(1, 60))
def test_values_that_cannot_be_built_are_stepped_over(heads: int, start: int, best: int) -> None:
    """A width must be divisible by heads: the nearest that is gives the answer, and the search ends."""
    start, best = start * heads, best * heads
    assume(start / FARTHEST <= best <= start * FARTHEST)
    found, asked = search(lambda w: 7 * w * w, start, 7 * best * best, divisor=heads)
    assert found.resolved.value == best
    assert all(isinstance(value, int) for value in asked)


def test_an_arm_that_fits_is_left_alone() -> None:
    """The baseline's very size needs no turning."""
    found, asked = search(lambda w: 100 * w, 5, 500)
    assert (found.turned, asked) == ({}, [])


@pytest.mark.parametrize("what", ["params", "active", "flops"])
def test_each_quantity_can_be_matched(what: str) -> None:
    """Parameters, those that one token uses, and FLOPs."""
    found, _ = search(lambda w: 6 * w, 100, 3000, what=what)
    amounts = {"params": found.cost.parameters, "active": found.cost.active, "flops": found.cost.flops}
    assert amounts[what] == pytest.approx(3000, rel=0.02)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (
            {"size": lambda w: 1000 * w, "start": 4, "wanted": 5400, "tolerance": 0.02},
            "E-BUDGET: ffn=moe cannot match 5,400 parameters within 2.00%: nearest 5,000 (-7.41%) at width = 5. Raise "
            "--tolerance, turn something else with --match-on KEY, or match another quantity",
        ),
        (
            {"size": lambda w: 1000, "start": 4, "wanted": 5500},
            "E-BUDGET: ffn=moe cannot match 5,500 parameters within 2.00%: nearest 1,000 (-81.82%) at width = 4. Raise",
        ),
        (
            {"size": lambda w: w, "start": 4, "wanted": 9000, "key": "widht"},
            "--match-on: ffn=moe has no parameter 'widht'. Did you mean 'width'?",
        ),
        (
            {"size": lambda w: w, "start": 4, "wanted": 9000, "key": ""},
            "E-BUDGET: ffn=moe has no number (the system names none) that",
        ),
        (
            {"size": lambda w: 5, "start": "wide", "wanted": 9000},
            "E-BUDGET: ffn=moe has no number width that could be turned",
        ),
        (
            {"size": lambda w: 5, "start": True, "wanted": 9000},
            "E-BUDGET: ffn=moe has no number width that could be turned",
        ),
        (
            {"size": lambda w: 5, "start": 0, "wanted": 9000},
            "E-BUDGET: ffn=moe: width = 0 cannot be turned to match 9,000 parameters; both are to be greater than 0.",
        ),
        (
            {"size": lambda w: w, "start": 3, "wanted": 0},
            "E-BUDGET: ffn=moe: width = 3 cannot be turned to match 0 parameters;",
        ),
        (
            {"size": lambda w: w, "start": 4, "wanted": 10**6},
            "E-BUDGET: ffn=moe cannot match 1,000,000 parameters within 2.00%: nearest 256",
        ),
    ],
)
def test_what_cannot_be_matched_is_told(words: dict[str, Any], text: str) -> None:
    """E-BUDGET: the nearest that there is and what to do, or why nothing could be turned."""
    with pytest.raises(UserError) as caught:
        search(**words)
    assert str(caught.value).startswith(text), str(caught.value)


def test_a_value_that_nothing_near_can_be_built_with_ends_the_search() -> None:
    """Where doubling leads nowhere the best that was seen is told."""
    with pytest.raises(UserError, match=r"nearest 700 \(-99.93%\) at width = 7"):
        search(lambda w: 100 * w, 7, 10**6, divisor=7 * 2**40 + 7)
