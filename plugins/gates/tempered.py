"""A sigmoid gate kept away from 0 and 1.

B batch, Q tokens, D width, H heads, V value width of a head, R scores a token.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.kinds.gate import Gate, GateLayer
from core.nn.norm import normalised
from core.nn.overflow import projected, saturated
from core.params import knob, params
from plugins.gates._scores import Per, by_head, scale, scores_a_token
from plugins.gates._spectral import Mode, Spectral

MARGIN = 2.0**-23
"""least distance of a score from its bounds, which a float32 sigmoid would round onto"""


@params
class Tempered(Gate):
    """g = delta + (1 - 2 delta) sigmoid((W LN(x) + b) / tau), with a learned temperature tau.

    The floor `delta` keeps every score strictly inside (delta, 1 - delta), whatever the token holds, so nothing is ever
    cut off: what the gate scales keeps at least delta of its gradient. W starts at zero: with `bias = 0` every score is
    0.5 at first, and the gate is a constant until its weights have moved. The temperature divides the logits (Hinton et
    al. 2015, arXiv:1503.02531, eq. 1): a higher one makes the gate less steep. Not to be confused with a hard concrete
    gate, which is random and reaches 0 and 1.
    """

    per: Per = knob("channel", "what has a score of its own: token, head, or channel of a head")
    delta: float = knob(0.02, "floor: scores stay above it and below one minus it", ge=0.0, le=0.49)
    temperature: float = knob(2.0, "first value of the temperature; more than `coolest`", gt=0.0)
    coolest: float = knob(0.5, "what the learned temperature stays above", gt=0.0)
    norm: bool = knob(True, "normalise the token before the map (layer norm without scale and shift)")
    bias: float = knob(0.0, "initial bias of the gate's logit; 0 starts half open", decides="start")
    spectral: Mode = knob("none", "what keeps the spectral norm of the weights below `spectral_bound`")
    spectral_bound: float = knob(1.0, "largest spectral norm that is left alone", gt=0.0, acts="spectral!=none")
    spectral_weight: float = knob(0.01, "weight of the penalty's square", ge=0.0, acts="spectral=penalty")

    def __attrs_post_init__(self) -> None:
        if self.temperature <= self.coolest:
            raise ValueError(
                f"temperature must be more than coolest, got {self.temperature} and {self.coolest}; "
                "raise temperature or lower coolest"
            )

    def build(self, width: int, heads: int, head_width: int) -> TemperedGate:
        return TemperedGate(self, width, heads, head_width)

    def params(self, width: int, heads: int, head_width: int) -> int:
        return scores_a_token(self.per, heads, head_width) * (width + 1) + 1

    def flops(self, width: int, heads: int, head_width: int, tokens: int) -> int:
        return self.limit.flops(width, scores_a_token(self.per, heads, head_width), tokens)

    @property
    def limit(self) -> Spectral:
        """What the gate does about the spectral norm of its weights."""
        return Spectral(self.spectral, self.spectral_bound, self.spectral_weight)


class TemperedGate(GateLayer, nn.Module):
    """The module of `Tempered`: W (R, D), b (R,) and one temperature for all scores."""

    def __init__(self, plugin: Tempered, width: int, heads: int, head_width: int) -> None:
        super().__init__()
        rows = scores_a_token(plugin.per, heads, head_width)
        self.plugin, self.heads = plugin, heads
        self.limit = plugin.limit
        self.weight = nn.Parameter(torch.empty(rows, width))
        self.bias = nn.Parameter(torch.empty(rows))
        self.raw_temperature = nn.Parameter(torch.empty(1))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Weights zero, the bias and the temperature at their initial values."""
        nn.init.zeros_(self.weight)
        nn.init.constant_(self.bias, self.plugin.bias)
        above = self.plugin.temperature - self.plugin.coolest
        nn.init.constant_(self.raw_temperature, above + math.log(-math.expm1(-above)))  # inverse of softplus

    def scores(self, x_BQD: Tensor) -> Tensor:
        """Multipliers in (delta, 1 - delta), (B, Q, H) or, by channel, (B, Q, H, V); float32 or wider."""
        wide = torch.promote_types(x_BQD.dtype, torch.float32)
        inside_BQD = normalised(saturated(x_BQD)) if self.plugin.norm else saturated(x_BQD).to(wide)
        weight_RD, bias_R = self.limit.limited(self.weight).to(wide), self.bias.to(wide)
        logits_BQR = projected(lambda x: F.linear(x, weight_RD, bias_R), inside_BQD).to(wide)
        temperature = self.plugin.coolest + F.softplus(self.raw_temperature.to(wide))
        low, high = self.plugin.delta, 1 - self.plugin.delta
        scores_BQR = low + (high - low) * torch.sigmoid(logits_BQR / temperature)
        return by_head(scores_BQR.clamp(low + MARGIN, high - MARGIN), self.plugin.per, self.heads)

    def forward(self, out_BHQV: Tensor, x_BQD: Tensor) -> Tensor:
        return scale(out_BHQV, self.scores(x_BQD))
