"""The dense feed-forward network. B batch, T tokens, D width, F inner width."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from core.kinds.ffn import FFN, Aux
from core.nn.overflow import projected
from core.nn.padding import blanked
from core.params import knob, params
from core.train.streams import Dropout

Activation = Literal["gelu", "relu", "silu"]
ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {"gelu": F.gelu, "relu": F.relu, "silu": F.silu}


@params
class Dense(FFN):
    """Two linear maps with an activation between them: W2 act(W1 x + b1) + b2 (Vaswani et al. 2017, eq. 2)."""

    ratio: float = knob(4.0, "inner width over width", gt=0.0)
    activation: Activation = knob("gelu", "between the two maps", source="Hendrycks and Gimpel 2016, arXiv:1606.08415")
    dropout: float = knob(0.0, "share of inner channels dropped in training", ge=0.0, lt=1.0)

    def build(self, width: int) -> DenseLayer:
        return DenseLayer(width, inner_width(self.ratio * width), self.activation, self.dropout)

    def params(self, width: int) -> int:
        inner = inner_width(self.ratio * width)
        return 2 * width * inner + inner + width

    def flops(self, width: int, tokens: int) -> int:
        return 4 * tokens * width * inner_width(self.ratio * width)


class DenseLayer(nn.Module):
    """The module of `Dense`."""

    def __init__(self, width: int, inner: int, activation: Activation, dropout: float) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[activation]
        self.up = nn.Linear(width, inner)
        self.down = nn.Linear(inner, width)
        self.dropout = Dropout(dropout)

    def forward(self, x_BTD: Tensor, real_BT: Tensor | None = None) -> tuple[Tensor, Aux]:
        """Tokens after the network, (B, T, D), of the dtype of `x_BTD`, and nothing to add or log.

        Args:
            x_BTD: tokens.
            real_BT: bool, False on padding, which comes out as zeros whatever it holds; None where nothing is padded.
        """
        # Before the maps as well as after, as a gradient of 0 times NaN would reach their weights.
        inside_BTD = blanked(x_BTD, real_BT)
        inner_BTF = self.dropout(self.activation(projected(self.up, inside_BTD)))
        out_BTD = projected(self.down, inner_BTF).to(x_BTD.dtype)
        return blanked(out_BTD, real_BT), Aux()


def inner_width(channels: float) -> int:
    """The nearest whole number of inner channels, at least one."""
    return max(1, round(channels))
