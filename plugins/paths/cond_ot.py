"""The straight path between noise and data. t (B,)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from core.kinds.path import FlowPath
from core.params import params

if TYPE_CHECKING:
    from torch import Tensor


@params
class CondOt(FlowPath):
    """Straight path at constant speed: alpha = t, sigma = 1 - t.

    The conditional optimal-transport path of Lipman et al. 2023 (arXiv:2210.02747, section 4.1, example II with
    sigma_min = 0), which is also rectified flow before any reflow (Liu et al. 2023, arXiv:2209.03003). The velocity
    x1 - x0 does not depend on t, so an Euler step along the true velocity makes no error.

    Not to be confused with a coupling: each pair (x0, x1) is joined by a straight line, but nothing here chooses which
    noise is paired with which data. It is not variance preserving: with unit-variance ends the variance at t = 1/2
    is 1/2.
    """

    def alpha(self, t: Tensor) -> Tensor:
        return t

    def sigma(self, t: Tensor) -> Tensor:
        return 1.0 - t

    def rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        one = torch.ones_like(t)
        return one, -one
