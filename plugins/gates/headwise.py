"""One gate a head. B batch, Q tokens, D width, H heads, V value width of a head."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.kinds.gate import Gate, GateLayer
from core.params import knob, params


@params
class Headwise(Gate):
    """Each head of a token is scaled by one sigmoid of a linear map of that token.

    Source: Qiu et al. 2025, arXiv:2505.06708, position G1 (after the weighted sum, before the output
    projection), headwise. It costs H * (D + 1) parameters. The gate reads the token, not its query vector.
    """

    bias: float = knob(0.0, "initial bias of the gate's logit; 0 starts near half open, 4 nearly open")

    def build(self, width: int, heads: int, head_width: int) -> HeadGate:
        return HeadGate(width, heads, self.bias)


class HeadGate(GateLayer, nn.Module):
    """sigmoid(W x + b) with W (H, D) and b (H,)."""

    def __init__(self, width: int, heads: int, bias: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(heads, width))
        self.bias = nn.Parameter(torch.empty(heads))
        self.initial_bias = bias
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Weights as those of a linear layer, the bias at its initial value."""
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        nn.init.constant_(self.bias, self.initial_bias)

    def scores(self, x_BQD: Tensor) -> Tensor:
        """Multipliers in [0, 1], (B, Q, H)."""
        return torch.sigmoid(F.linear(x_BQD, self.weight, self.bias))

    def forward(self, out_BHQV: Tensor, x_BQD: Tensor) -> Tensor:
        scores_BHQ1 = self.scores(x_BQD).transpose(1, 2).unsqueeze(-1)
        return out_BHQV * scores_BHQ1.to(out_BHQV.dtype)
