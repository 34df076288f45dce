"""A convex gate over two branches. B batch, Q tokens, D width, H heads, V value width of a head."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from core.kinds.gate import Gate, GateLayer
from core.params import params, slot


@params
class Dual(Gate):
    """Heads in two branches: the first half is scaled by g, the second by 1 - g, with g from the gate `inner`.

    After attention the output projection adds both halves up, so W_o [g a; (1 - g) b] fuses what the two halves read.
    Two whole branches are fused by `core.nn.fusion.Fusion`, which shows this gate [a; b] and takes a and b as its two
    heads: y = g a + (1 - g) b, with min(a, b) <= y <= max(a, b), and y = a where a = b (Srivastava et al. 2015,
    arXiv:1505.00387, eq. 3, coupled carry gate). Not to be confused with two gates: there is one score for both.
    With `inner = none` the first branch passes alone.
    """

    inner: Gate = slot("tempered", "gives the share of the first branch")

    def build(self, width: int, heads: int, head_width: int) -> DualGate:
        if heads % 2:
            raise ValueError(
                f"the gate dual scales heads in two halves and needs an even number of them, got {heads}; "
                "choose an even number of heads, or the gate tempered"
            )
        return DualGate(self.inner.build(width, heads // 2, head_width), heads)

    def params(self, width: int, heads: int, head_width: int) -> int:
        return self.inner.params(width, heads // 2, head_width)

    def flops(self, width: int, heads: int, head_width: int, tokens: int) -> int:
        return self.inner.flops(width, heads // 2, head_width, tokens)


class DualGate(GateLayer, nn.Module):
    """Scales heads 0 .. H/2 - 1 by the inner gate's scores and the others by what these leave."""

    def __init__(self, inner: nn.Module, heads: int) -> None:
        super().__init__()
        self.inner, self.heads = inner, heads

    def scores(self, x_BQD: Tensor) -> Tensor:
        """Multipliers in [0, 1], (B, Q, H) or (B, Q, H, V)."""
        first = self.inner.scores(x_BQD)  # type: ignore[operator]
        if first is None:
            first = x_BQD.new_ones(*x_BQD.shape[:2], self.heads // 2)
        return torch.cat([first, 1 - first], 2)

    def forward(self, out_BHQV: Tensor, x_BQD: Tensor) -> Tensor:
        a_BGQV, b_BGQV = out_BHQV.chunk(2, 1)
        # Run on ones, the inner gate gives its scores, once, and a probe that watches it sees it run.
        ones = torch.ones_like(a_BGQV, dtype=torch.promote_types(out_BHQV.dtype, torch.float32))
        first = self.inner(ones, x_BQD)
        return torch.cat([first * a_BGQV, (1 - first) * b_BGQV], 1).to(out_BHQV.dtype)
