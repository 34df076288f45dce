"""A head with hidden layers. B items, D width, F hidden width, P predicted numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from core.kinds.head import Head
from core.nn.overflow import projected
from core.params import knob, params
from core.train.streams import Dropout

Activation = Literal["gelu", "relu", "silu"]
ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {"gelu": F.gelu, "relu": F.relu, "silu": F.silu}


@params
class Mlp(Head):
    """Hidden layers of one width, each with an activation and dropout behind it, and a linear map."""

    hidden: float = knob(1.0, "width of a hidden layer, in input widths", gt=0.0)
    layers: int = knob(1, "hidden layers", ge=1)
    activation: Activation = knob("gelu", "behind each hidden layer")
    dropout: float = knob(0.0, "share of hidden channels dropped in training", ge=0.0, lt=1.0)

    def build(self, width: int, outputs: int) -> MlpHead:
        return MlpHead(self, width, outputs)


class MlpHead(nn.Module):
    """The module of `Mlp`."""

    def __init__(self, plugin: Mlp, width: int, outputs: int) -> None:
        super().__init__()
        hidden = max(1, round(plugin.hidden * width))
        self.activation = ACTIVATIONS[plugin.activation]
        self.layers = nn.ModuleList(nn.Linear(width if i == 0 else hidden, hidden) for i in range(plugin.layers))
        self.dropout = Dropout(plugin.dropout)
        self.map = nn.Linear(hidden, outputs)

    def forward(self, x_BD: Tensor) -> Tensor:
        """Predictions, (B, P), of the dtype of `x_BD`."""
        h_BF = x_BD
        for layer in self.layers:
            h_BF = self.dropout(self.activation(projected(layer, h_BF)))
        return projected(self.map, h_BF).to(x_BD.dtype)
