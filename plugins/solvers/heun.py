"""Heun's method. Each modality (B, ...)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from core.kinds.path import FlowPath, Target
from core.kinds.solver import Field, Noise, Solver, Tree
from core.params import params
from plugins.solvers.euler import check_arrival, forward, steps


@params
class Heun(Solver):
    """Heun's second-order method: a step along the mean of the velocities at its start and at its Euler end.

    x' = x + (t' - t) (v(x, t) + v(x + (t' - t) v(x, t), t')) / 2, two field calls a step. The last step is one of
    Euler, with one call, as the velocity may be singular at t = 1 (Karras et al. 2022, arXiv:2206.00364, algorithm 1);
    the order stays 2. Steps are counted as asked: n steps cost 2 n - 1 calls.

    Not to be confused with Heun's third-order method.
    """

    wants: ClassVar[Target] = "velocity"

    @property
    def stochastic(self) -> bool:
        return False

    def calls(self, steps: int) -> int:
        return 2 * steps - 1

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
        *early, last = steps(times)
        check_arrival(last, paths)
        for t, later in early:
            slope = field(state, t)
            ahead = field(forward(state, slope, t, later, paths), later)
            state = {name: x + 0.5 * (later - t) * (slope[name] + ahead[name]) for name, x in state.items()}
        return forward(state, field(state, last[0]), *last, paths)
