"""The explicit Euler method. Each modality (B, ...)."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import ClassVar

from core.kinds.path import FlowPath, Target
from core.kinds.solver import Field, Noise, Solver, Tree
from core.params import params


@params
class Euler(Solver):
    """Explicit Euler: x + (t' - t) v(x, t), first order, one field call a step.

    The field is asked at the start of each step, so never at times[-1]: a field that is singular at t = 1 does no
    harm. On a straight path (`cond_ot`) the true velocity is constant and one step is exact; on a curved path the
    error falls in proportion to the step.

    Not to be confused with Euler-Maruyama: nothing is random here, and `noise` is not used.
    """

    wants: ClassVar[Target] = "velocity"
    stochastic: ClassVar[bool] = False

    def calls(self, steps: int) -> int:
        return steps

    def solve(
        self,
        field: Field,
        state: Tree,
        times: list[float],
        *,
        paths: Mapping[str, FlowPath],
        noise: Noise | None = None,
    ) -> Tree:
        for t, later in steps(times):
            velocity = field(state, t)
            state = {name: x + (later - t) * velocity[name] for name, x in state.items()}
        return state


def steps(times: list[float]) -> list[tuple[float, float]]:
    """The intervals of a schedule, as (start, end).

    Raises:
        ValueError: fewer than two times, or times that do not rise strictly within [0, 1].
    """
    pairs = list(itertools.pairwise(times))
    inside = bool(pairs) and times[0] >= 0 and times[-1] <= 1
    if not inside or not all(t < later for t, later in pairs):
        raise ValueError(
            f"a solver's times must be at least two and rise strictly from 0 (noise) towards 1 (data), got {times}"
        )
    return pairs
