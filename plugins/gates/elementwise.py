"""One gate a head and channel. B batch, Q tokens, D width, H heads, V value width of a head."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.kinds.gate import Gate, GateLayer
from core.params import knob, params


@params
class Elementwise(Gate):
    """Each channel of each head of a token is scaled by its own sigmoid of a linear map of that token.

    Source: Qiu et al. 2025, arXiv:2505.06708, position G1, elementwise. It costs H * V * (D + 1)
    parameters, as many as a projection; `headwise` is the cheap form.
    """

    bias: float = knob(0.0, "initial bias of the gate's logit; 0 starts near half open, 4 nearly open")

    def build(self, width: int, heads: int, head_width: int) -> ChannelGate:
        return ChannelGate(width, heads, head_width, self.bias)


class ChannelGate(GateLayer, nn.Module):
    """sigmoid(W x + b) with W (H * V, D) and b (H * V,), rows ordered by head, then channel."""

    def __init__(self, width: int, heads: int, head_width: int, bias: float) -> None:
        super().__init__()
        self.heads = heads
        self.weight = nn.Parameter(torch.empty(heads * head_width, width))
        self.bias = nn.Parameter(torch.empty(heads * head_width))
        self.initial_bias = bias
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Weights as those of a linear layer, the bias at its initial value."""
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        nn.init.constant_(self.bias, self.initial_bias)

    def scores(self, x_BQD: Tensor) -> Tensor:
        """Multipliers in [0, 1], (B, Q, H, V)."""
        return torch.sigmoid(F.linear(x_BQD, self.weight, self.bias)).unflatten(-1, (self.heads, -1))

    def forward(self, out_BHQV: Tensor, x_BQD: Tensor) -> Tensor:
        return out_BHQV * self.scores(x_BQD).transpose(1, 2).to(out_BHQV.dtype)
