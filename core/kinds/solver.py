"""Solver: from noise to data along the learned field."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, ClassVar

from core.kinds.path import FlowPath, Target
from core.kinds.plugin import Plugin

if TYPE_CHECKING:
    from torch import Tensor

Tree = dict[str, "Tensor"]
"""one tensor (B, ...) a modality"""

Field = Callable[[Tree, float], Tree]
"""(state, t) -> prediction in the terms the solver asks for"""

Noise = Callable[[Tree], Tree]
"""fresh noise shaped like a state, already projected onto what a modality allows (centred positions, no padding)"""


class Solver(Plugin):
    """Integrates a state from times[0] to times[-1] and returns the last state only.

    It calls the field exactly once a step for one-stage methods, so `steps` is what a user pays, unless it is adaptive:
    then nobody knows the cost beforehand, and who wants to know counts. No noise is left in a sample: the last step,
    onto t = 1, ends in the data that the field's last answer stands for.

    Laws (`core.testing.solver.SolverLaws`): stated order of convergence on y' = -y (ODE solvers); exactly the field
    calls that `calls` announces, or the same end whatever steps were asked for; a field that knows the data reaches
    them, on every path; one seed, one sample.
    """

    KIND: ClassVar[str] = "solver"
    wants: ClassVar[Target]
    """the terms in which the field must answer"""

    @property
    @abstractmethod
    def stochastic(self) -> bool:
        """Whether it draws noise on the way."""

    @abstractmethod
    def calls(self, steps: int) -> int | None:
        """Field calls for a schedule of `steps` intervals; None: adaptive, it takes the ends of a schedule alone and
        chooses its own steps between them."""

    @abstractmethod
    def solve(
        self,
        field: Field,
        state: Tree,
        times: list[float],
        *,
        paths: Mapping[str, FlowPath],
        noise: Noise | None = None,
    ) -> Tree:
        """The state at times[-1]. `times` rises strictly within [0, 1].

        Raises:
            ValueError: a stochastic solver without `noise`, times that do not rise, or a step that the path does not
                allow.
        """
