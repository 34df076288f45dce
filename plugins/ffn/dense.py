"""The dense feed-forward network. B batch, T tokens, D width, F inner width."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.kinds.ffn import FFN, Aux
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
        return DenseLayer(self, width)


class DenseLayer(nn.Module):
    """The module of `Dense`."""

    def __init__(self, plugin: Dense, width: int) -> None:
        super().__init__()
        inner = inner_width(plugin.ratio * width)
        self.activation = ACTIVATIONS[plugin.activation]
        self.up = nn.Linear(width, inner)
        self.down = nn.Linear(inner, width)
        self.dropout = Dropout(plugin.dropout)

    def forward(self, x_BTD: Tensor, real_BT: Tensor | None = None) -> tuple[Tensor, Aux]:
        """Tokens after the network, (B, T, D), of the dtype of `x_BTD`, and nothing to add or log.

        Args:
            x_BTD: tokens.
            real_BT: bool, False on padding, which comes out as zeros whatever it holds; None where nothing is padded.
        """
        real_BT1 = None if real_BT is None else real_BT[..., None]
        # Before the maps as well as after: a gradient of 0 times NaN would reach their weights otherwise.
        inside_BTD = x_BTD if real_BT1 is None else torch.where(real_BT1, x_BTD, 0.0)
        out_BTD = self.down(self.dropout(self.activation(self.up(inside_BTD)))).to(x_BTD.dtype)
        return (out_BTD if real_BT1 is None else torch.where(real_BT1, out_BTD, 0.0)), Aux()


def inner_width(channels: float) -> int:
    """The nearest whole number of inner channels, at least one."""
    return max(1, round(channels))
