"""A residual with one scale a channel. B batch, T tokens, D width."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from core.kinds.residual import Residual
from core.nn.overflow import held, saturated
from core.params import knob, params


@params
class LayerScale(Residual):
    """x + s * f(x) with a learned scale s a channel that starts small, so that a deep stack starts near identity.

    Touvron et al. 2021, arXiv:2103.17239, eq. 4. `rezero` has one scale for all channels, which starts at 0.
    """

    initial: float = knob(
        0.01, "first value of every scale", source="Touvron et al. 2021, section 2.2", decides="start"
    )

    def build(self, width: int) -> ChannelScale:
        return ChannelScale(width, self.initial)


class ChannelScale(nn.Module):
    """The module of `LayerScale`."""

    def __init__(self, width: int, initial: float) -> None:
        super().__init__()
        self.initial = initial
        self.scale_D = nn.Parameter(torch.empty(width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.constant_(self.scale_D, self.initial)

    def forward(self, x_BTD: Tensor, out_BTD: Tensor) -> Tensor:
        """The stream plus the scaled output, (B, T, D), of the wider dtype of the two."""
        return saturated(x_BTD + held(lambda out: self.scale_D * out, out_BTD).to(out_BTD.dtype))
