"""The explicit Euler method. Each modality (B, ...)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import ClassVar

import torch

from core.kinds.path import FlowPath, Target
from core.kinds.solver import Field, Noise, Solver, Tree
from core.params import params


@params
class Euler(Solver):
    """Explicit Euler: x + (t' - t) v(x, t), first order, one field call a step.

    The field is asked at the start of each step, so never at times[-1]: a field that is singular at t = 1 does no
    harm. On a straight path (`cond_ot`) the true velocity is constant and one step is exact; on a curved path the
    error falls in proportion to the step. The step onto t = 1 goes to the data that the velocity stands for on the
    path: on a straight path that is the same, on a curved one no noise is left over.

    Not to be confused with Euler-Maruyama: nothing is random here, and `noise` is not used.
    """

    wants: ClassVar[Target] = "velocity"

    @property
    def stochastic(self) -> bool:
        return False

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
        """The state at times[-1]; a modality without a path moves along a straight one.

        Raises:
            ValueError: times that do not rise, or a single step to t = 1 from where a path stands still.
        """
        plan = steps(times)
        check_arrival(plan[-1], paths)
        for t, later in plan:
            state = forward(state, field(state, t), t, later, paths)
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


def forward(state: Tree, velocity: Tree, t: float, later: float, paths: Mapping[str, FlowPath]) -> Tree:
    """One step along the velocity; onto t = 1, to the data that it stands for: x1 = (sigma v - sigma' x) / det."""
    if later < 1.0:
        return {name: x + (later - t) * velocity[name] for name, x in state.items()}
    end = {}
    for name, x in state.items():
        of_v, of_x = _arrival(paths[name], t) if name in paths else (1.0 - t, 1.0)
        end[name] = of_x * x + of_v * velocity[name]
    return end


def check_arrival(last: tuple[float, float], paths: Mapping[str, FlowPath]) -> None:
    """Refuse a last step from a time at which the velocity says nothing of the data.

    Raises:
        ValueError: a path stands still where its last step begins.
    """
    t, later = last
    for path in paths.values() if later == 1.0 else ():
        _arrival(path, t)


def arrives_straight(path: FlowPath, t: float) -> bool:
    """Whether the data that a velocity at t stands for lie straight ahead, at x + (1 - t) v."""
    of_v, of_x = _arrival(path, t)
    return math.isclose(of_v, 1.0 - t, rel_tol=1e-9) and math.isclose(of_x, 1.0, rel_tol=1e-9)


def _arrival(path: FlowPath, t: float) -> tuple[float, float]:
    """Shares of velocity and state in the data; t < 1."""
    at = torch.tensor([t], dtype=torch.float64)
    (alpha,), (sigma,) = (share.tolist() for share in path.shares(at))
    (d_alpha,), (d_sigma,) = (rate.tolist() for rate in path.rates(at))
    det = d_alpha * sigma - d_sigma * alpha
    if not det > 0:
        raise ValueError(
            f"a single step from t = {t:g} to the data is impossible along {type(path).__name__}, which stands still "
            "there, so that a velocity says nothing of the data: take two steps or more, or the solver ddim or ddpm"
        )
    return sigma / det, -d_sigma / det
