"""How many times longer a step takes than another: turns against a load that comes and goes, and honest errors."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.study.estimate import LONGEST, ROUNDS, ratio


class Machine:
    """A clock that only steps move, each by its own time times the load of the moment."""

    def __init__(self, load: Callable[[int], float] = lambda call: 1.0) -> None:
        self.now, self.calls, self.load = 0.0, 0, load

    def step(self, seconds: float) -> Callable[[], None]:
        def work() -> None:
            self.now += seconds * self.load(self.calls)
            self.calls += 1

        return work


@settings(deadline=None, max_examples=50)
@given(base=st.floats(1e-3, 0.5), longer=st.floats(0.1, 10.0))
def test_a_quiet_machine(base: float, longer: float) -> None:
    """The quotient of the two times, without error, in the fewest turns."""
    machine = Machine()
    found, error = ratio(machine.step(base * longer), machine.step(base), 0.02, lambda: machine.now)
    assert found == pytest.approx(longer, rel=1e-6)
    assert error < 1e-6


def test_a_load_that_comes_and_goes_slows_both() -> None:
    """Half of the time everything takes three times as long: the quotient stays what it is."""
    machine = Machine(lambda call: 3.0 if call // 20 % 2 else 1.0)
    found, error = ratio(machine.step(0.06), machine.step(0.04), 0.02, lambda: machine.now)
    assert found == pytest.approx(1.5, rel=0.01)
    assert error <= 0.01


def test_a_machine_that_cannot_be_measured_on_says_so() -> None:
    """Loads from call to call leave an error beyond the tolerance, and measuring ends all the same."""
    machine = Machine(lambda call: 1.0 + 4.0 * (call * 7919 % 13) / 13)
    _, error = ratio(machine.step(0.06), machine.step(0.04), 0.001, lambda: machine.now)
    assert error > 0.001
    assert machine.now < LONGEST + 10 * 5 * 0.1
    assert machine.calls <= 4 + 2 * 2 * ROUNDS[1]
