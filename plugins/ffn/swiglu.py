"""The gated feed-forward network. B batch, T tokens, D width, F inner width."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from core.kinds.ffn import FFN, Aux
from core.nn.overflow import held, projected
from core.nn.padding import blanked
from core.params import knob, params
from core.train.streams import Dropout
from plugins.ffn.dense import inner_width

MATCH = 2 / 3
"""three matrices of this share of the inner width hold as many numbers as the two of a dense network"""


@params
class Swiglu(FFN):
    """One half of the inner channels, through SiLU, gates the other: W2 (silu(W x) * V x), without biases.

    Shazeer 2020, arXiv:2002.05202, eq. 6. The inner width is two thirds of that of `dense` with the same `ratio`, so
    that both have equal size and cost (there section 2). Not a gate on attention: see the kind `gate`.
    """

    ratio: float = knob(4.0, "inner width over width of the dense network that it equals in size", gt=0.0)
    dropout: float = knob(0.0, "share of inner channels dropped in training", ge=0.0, lt=1.0)

    def build(self, width: int) -> SwigluLayer:
        return SwigluLayer(width, self._inner(width), self.dropout)

    def params(self, width: int) -> int:
        return 3 * width * self._inner(width)

    def flops(self, width: int, tokens: int) -> int:
        return 6 * tokens * width * self._inner(width)

    def _inner(self, width: int) -> int:
        return inner_width(MATCH * self.ratio * width)


class SwigluLayer(nn.Module):
    """The module of `Swiglu`; the rows of `up` are W, then V."""

    def __init__(self, width: int, inner: int, dropout: float) -> None:
        super().__init__()
        self.up = nn.Linear(width, 2 * inner, bias=False)
        self.down = nn.Linear(inner, width, bias=False)
        self.dropout = Dropout(dropout)

    def forward(self, x_BTD: Tensor, real_BT: Tensor | None = None) -> tuple[Tensor, Aux]:
        """Tokens after the network, (B, T, D), of the dtype of `x_BTD`, and nothing to add or log.

        Args:
            x_BTD: tokens.
            real_BT: bool, False on padding, which comes out as zeros whatever it holds; None where nothing is padded.
        """
        inner_BTF = self.dropout(swiglu(projected(self.up, blanked(x_BTD, real_BT))))
        out_BTD = projected(self.down, inner_BTF).to(x_BTD.dtype)
        return blanked(out_BTD, real_BT), Aux()


def swiglu(x: Tensor) -> Tensor:
    """silu(first half) * second half of the last axis."""
    return held(lambda gate, value: F.silu(gate) * value, *x.chunk(2, dim=-1))
