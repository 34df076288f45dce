"""No gate. B batch, Q tokens, D width, H heads, V value width of a head."""

from __future__ import annotations

from torch import Tensor, nn

from core.kinds.gate import Gate, GateLayer
from core.params import params


@params
class NoGate(Gate):
    """Attended values pass as they are: the control arm of a gate study."""

    def build(self, width: int, heads: int, head_width: int) -> PassThrough:
        return PassThrough()

    def params(self, width: int, heads: int, head_width: int) -> int:
        return 0

    def flops(self, width: int, heads: int, head_width: int, tokens: int) -> int:
        return 0


class PassThrough(GateLayer, nn.Module):
    """A gate layer without scores and without parameters."""

    def scores(self, x_BQD: Tensor) -> Tensor | None:
        return None

    def forward(self, out_BHQV: Tensor, x_BQD: Tensor) -> Tensor:
        return out_BHQV
