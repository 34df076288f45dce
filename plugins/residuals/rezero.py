"""A residual with one scale that starts at 0. B batch, T tokens, D width."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from core.kinds.residual import Residual
from core.nn.overflow import held, saturated
from core.params import knob, params


@params
class ReZero(Residual):
    """x + a * f(x) with one learned number a, at first 0: the network starts as the identity.

    Bachlechner et al. 2020, arXiv:2003.04887, eq. 3. While a is exactly 0 no gradient reaches the layer itself, so its
    weights begin to move one step after a. `layerscale` has a scale a channel, which starts small.
    """

    initial: float = knob(0.0, "first value of the scale", decides="start")

    def build(self, width: int) -> Scale:
        return Scale(self.initial)


class Scale(nn.Module):
    """The module of `ReZero`."""

    def __init__(self, initial: float) -> None:
        super().__init__()
        self.initial = initial
        self.scale = nn.Parameter(torch.empty(()))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.constant_(self.scale, self.initial)

    def forward(self, x_BTD: Tensor, out_BTD: Tensor) -> Tensor:
        """The stream plus the scaled output, (B, T, D), of the wider dtype of the two."""
        return saturated(x_BTD + held(lambda out: self.scale * out, out_BTD).to(out_BTD.dtype))
