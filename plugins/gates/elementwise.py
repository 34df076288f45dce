"""One gate a head and channel. B batch, Q tokens, D width, H heads, V value width of a head."""

from __future__ import annotations

from core.kinds.gate import Gate
from core.params import knob, params
from plugins.gates._scores import Start, scores_a_token
from plugins.gates._spectral import Mode, Spectral
from plugins.gates.sigmoid import SigmoidGate


@params
class Elementwise(Gate):
    """Each channel of each head of a token is scaled by its own sigmoid of a linear map of that token.

    Source: Qiu et al. 2025, arXiv:2505.06708, position G1, elementwise. It costs H * V * (D + 1)
    parameters, as many as a projection; `headwise` is the cheap form.
    """

    bias: float = knob(0.0, "initial bias of the gate's logit; 0 starts near half open, 4 nearly open", decides="start")
    weights: Start = knob("linear", "first weights: those of a linear layer, or zero, so that the bias alone decides")
    spectral: Mode = knob("none", "what keeps the spectral norm of the weights below `spectral_bound`")
    spectral_bound: float = knob(1.0, "largest spectral norm that is left alone", gt=0.0, acts="spectral!=none")
    spectral_weight: float = knob(0.01, "weight of the penalty's square", gt=0.0, acts="spectral=penalty")

    def build(self, width: int, heads: int, head_width: int) -> SigmoidGate:
        return SigmoidGate("channel", width, heads, head_width, bias=self.bias, start=self.weights, limit=self.limit)

    def params(self, width: int, heads: int, head_width: int) -> int:
        return scores_a_token("channel", heads, head_width) * (width + 1)

    def flops(self, width: int, heads: int, head_width: int, tokens: int) -> int:
        return self.limit.flops(width, scores_a_token("channel", heads, head_width), tokens)

    @property
    def limit(self) -> Spectral:
        """What the gate does about the spectral norm of its weights."""
        return Spectral(self.spectral, self.spectral_bound, self.spectral_weight)
