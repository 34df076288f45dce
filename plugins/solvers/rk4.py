"""The classical Runge-Kutta method. Each modality (B, ...)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from core.kinds.path import FlowPath, Target
from core.kinds.solver import Field, Noise, Solver, Tree
from core.params import params
from plugins.solvers.euler import arrives_straight, check_arrival, forward, steps


@params
class Rk4(Solver):
    """The classical fourth-order Runge-Kutta method (Kutta 1901), four field calls a step.

    A step onto t = 1 never asks the field there, where a velocity may be singular: it is Ralston's third-order method
    (1962, Math. Comp. 16), with nodes at 0, 1/2 and 3/4 of the step and three calls. One step of third order leaves
    the order at 4; n steps to t = 1 cost 4 n - 1 calls. On a curved path the last quarter of that step goes straight
    to the data that its velocity stands for, so that no noise is left over.
    """

    wants: ClassVar[Target] = "velocity"

    @property
    def stochastic(self) -> bool:
        return False

    def calls(self, steps: int) -> int:
        return 4 * steps - 1

    def solve(
        self,
        field: Field,
        state: Tree,
        times: list[float],
        *,
        paths: Mapping[str, FlowPath],
        noise: Noise | None = None,
    ) -> Tree:
        """The state at times[-1]; a modality without a path moves along a straight one.

        Raises:
            ValueError: times that do not rise, or a single step to t = 1 from where a path stands still.
        """
        plan = steps(times)
        check_arrival(plan[-1], paths)
        for t, later in plan[:-1]:
            state = _fourth(field, state, t, later)
        return _last(field, state, *plan[-1], paths)


def _fourth(field: Field, state: Tree, t: float, later: float) -> Tree:
    h, middle = later - t, t + 0.5 * (later - t)
    first = field(state, t)
    second = field(_along(state, first, 0.5 * h), middle)
    third = field(_along(state, second, 0.5 * h), middle)
    fourth = field(_along(state, third, h), later)
    return {m: x + h / 6.0 * (first[m] + 2.0 * (second[m] + third[m]) + fourth[m]) for m, x in state.items()}


def _last(field: Field, state: Tree, t: float, later: float, paths: Mapping[str, FlowPath]) -> Tree:
    """A step of Ralston's method, which never asks at its own end."""
    h = later - t
    first = field(state, t)
    second = field(_along(state, first, 0.5 * h), t + 0.5 * h)
    near = _along(state, second, 0.75 * h)
    third = field(near, t + 0.75 * h)
    end = {m: x + h / 9.0 * (2.0 * first[m] + 3.0 * second[m] + 4.0 * third[m]) for m, x in state.items()}
    if later == 1.0:
        curved = {m: x for m, x in near.items() if m in paths and not arrives_straight(paths[m], t)}
        end |= forward(curved, third, t + 0.75 * h, later, paths)
    return end


def _along(state: Tree, velocity: Tree, h: float) -> Tree:
    return {m: x + h * velocity[m] for m, x in state.items()}
