"""The plain sigmoid gate, at any grain.

B batch, Q tokens, D width, H heads, V value width of a head, R scores a token.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.kinds.gate import Gate, GateLayer
from core.nn.overflow import projected
from core.params import knob, params
from plugins.gates._scores import Per, Start, by_head, scale, scores_a_token
from plugins.gates._spectral import Mode, Spectral


@params
class Sigmoid(Gate):
    """g = sigmoid(W x + b), one score a token, head or channel.

    Source: Hochreiter and Schmidhuber 1997, eq. 4 (multiplicative gates); after attention Qiu et al. 2025,
    arXiv:2505.06708. With `per = head` it is `headwise`, with `per = channel` `elementwise`; by default all heads of a
    token share one score. To start near identity, so that an arm with the gate begins where the arm without begins,
    set `bias = 6` and `weights = "zero"`: every score is then 0.9975.
    """

    per: Per = knob("token", "what has a score of its own: token, head, or channel of a head")
    bias: float = knob(0.0, "initial bias of the gate's logit; 0 starts near half open, 4 nearly open", decides="start")
    weights: Start = knob("linear", "first weights: those of a linear layer, or zero, so that the bias alone decides")
    spectral: Mode = knob("none", "what keeps the spectral norm of the weights below `spectral_bound`")
    spectral_bound: float = knob(1.0, "largest spectral norm that is left alone", gt=0.0, acts="spectral!=none")
    spectral_weight: float = knob(0.01, "weight of the penalty's square", ge=0.0, acts="spectral=penalty")

    def build(self, width: int, heads: int, head_width: int) -> SigmoidGate:
        return SigmoidGate(self.per, width, heads, head_width, bias=self.bias, start=self.weights, limit=self.limit)

    def params(self, width: int, heads: int, head_width: int) -> int:
        return scores_a_token(self.per, heads, head_width) * (width + 1)

    def flops(self, width: int, heads: int, head_width: int, tokens: int) -> int:
        return self.limit.flops(width, scores_a_token(self.per, heads, head_width), tokens)

    @property
    def limit(self) -> Spectral:
        """What the gate does about the spectral norm of its weights."""
        return Spectral(self.spectral, self.spectral_bound, self.spectral_weight)


class SigmoidGate(GateLayer, nn.Module):
    """sigmoid(W x + b) with W (R, D) and b (R,), rows ordered by head, then channel."""

    def __init__(
        self, per: Per, width: int, heads: int, head_width: int, *, bias: float, start: Start, limit: Spectral
    ) -> None:
        super().__init__()
        rows = scores_a_token(per, heads, head_width)
        self.per, self.heads, self.initial_bias, self.start, self.limit = per, heads, bias, start, limit
        self.weight = nn.Parameter(torch.empty(rows, width))
        self.bias = nn.Parameter(torch.empty(rows))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Weights as those of a linear layer, or zero; the bias at its initial value."""
        if self.start == "linear":
            nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        else:
            nn.init.zeros_(self.weight)
        nn.init.constant_(self.bias, self.initial_bias)

    def scores(self, x_BQD: Tensor) -> Tensor:
        """Multipliers in [0, 1], (B, Q, H) or, by channel, (B, Q, H, V); float32 or wider."""
        weight_RD = self.limit.limited(self.weight)
        logits_BQR = projected(lambda x: F.linear(x, weight_RD, self.bias), x_BQD)
        wide = torch.promote_types(logits_BQR.dtype, torch.float32)
        return by_head(torch.sigmoid(logits_BQR.to(wide)), self.per, self.heads)

    def forward(self, out_BHQV: Tensor, x_BQD: Tensor) -> Tensor:
        return scale(out_BHQV, self.scores(x_BQD))
