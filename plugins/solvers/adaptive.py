"""Runge-Kutta methods that choose their own steps. Each modality (B, ...)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from torch import Tensor

from core.kinds.path import FlowPath, Target
from core.kinds.solver import Field, Noise, Solver, Tree
from core.params import knob, params
from plugins.solvers.euler import check_arrival, forward, steps

SHORT = 1e-3
"""the last step onto t = 1, over the whole way: its error is half the square of that times the field's derivative"""


@params
class Adaptive(Solver):
    """Embedded Runge-Kutta methods of torchdiffeq: steps as long as an estimate of their error allows.

    The error of a step, in each cell the root of its mean square over atol + rtol |x|, is at most 1 in the worst set of
    the batch. So no set is solved less well for being in a batch with others, but its last digits depend on
    them, within the tolerances. Of a schedule only the ends are read: steps that are asked for between them do nothing.

    The field is never asked at t = 1, where a velocity may be singular: the last thousandth of a way there is one step
    to the data that the velocity stands for, as of `euler`, whatever the tolerances.

    dopri5: Dormand and Prince 1980, J. Comput. Appl. Math. 6, order 5, six calls a step; bosh3: Bogacki and Shampine
    1989, Appl. Math. Lett. 2, order 3, three; adaptive_heun: order 2, one. A rejected step costs as many, and the
    choice of the first step two. Gradients take the steps as given.
    """

    wants: ClassVar[Target] = "velocity"

    method: Literal["dopri5", "bosh3", "adaptive_heun"] = knob("dopri5", "which method")
    atol: float = knob(1e-4, "error that a step may have, in the units of the state", ge=1e-6, le=1e-2)
    rtol: float = knob(1e-3, "error that a step may have, relative to the state", ge=1e-6, le=1e-1)
    most: int = knob(1000, "steps after which it gives up, rejected ones too", ge=100)

    @property
    def stochastic(self) -> bool:
        return False

    def calls(self, steps: int) -> None:
        return None

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
            ValueError: times that do not rise, a path that stands still at the last thousandth, a field that is not
                finite, or one that cannot be followed within `most` steps.
        """
        # A plugin is loaded to be listed with its parameters, which takes no torchdiffeq.
        from torchdiffeq import odeint

        plan = steps(times)
        begin, end = plan[0][0], plan[-1][1]
        onto_data = end == 1.0
        until = end - SHORT * (end - begin) if onto_data else end
        check_arrival((until, end), paths)
        names = list(state)
        reached = begin

        def slope(t: Tensor, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            nonlocal reached
            # The guess at a first step looks ahead as far as it likes, and rounding may pass the end.
            reached = min(max(float(t), begin), until)
            found = field(dict(zip(names, given, strict=True)), reached)
            return tuple(found[name] for name in names)

        span = torch.tensor([begin, until], dtype=torch.float64, device=state[names[0]].device)
        how = {"norm": _worst, "step_t": span[1:], "max_num_steps": self.most}
        start = tuple(state[name] for name in names)
        try:
            ways = odeint(slope, start, span, rtol=self.rtol, atol=self.atol, method=self.method, options=how)
        except AssertionError as error:
            raise ValueError(
                f"solver {self.method} gave up at t = {reached:.6g} ({str(error).partition(':')[0]}): the field is not "
                f"finite, or atol = {self.atol:g} and rtol = {self.rtol:g} are finer than its numbers; allow larger "
                "errors, raise solver.most, or take heun or rk4"
            ) from None
        last = {name: way[-1] for name, way in zip(names, ways, strict=True)}
        return forward(last, field(last, until), until, end, paths) if onto_data else last


def _worst(error: tuple[Tensor, ...]) -> Tensor:
    """The largest root mean square of a set's entries, over all sets and modalities."""
    return torch.stack([x.detach().square().reshape(len(x), -1).mean(1).max() for x in error]).max().sqrt()
