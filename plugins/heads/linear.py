"""The linear head. B items, D width, P predicted numbers."""

from __future__ import annotations

from torch import Tensor, nn

from core.kinds.head import Head
from core.nn.overflow import projected
from core.params import params


@params
class Linear(Head):
    """W x + b: the fewest parameters, and the baseline of the other heads."""

    def build(self, width: int, outputs: int) -> LinearHead:
        return LinearHead(width, outputs)


class LinearHead(nn.Module):
    """The module of `Linear`."""

    def __init__(self, width: int, outputs: int) -> None:
        super().__init__()
        self.map = nn.Linear(width, outputs)

    def forward(self, x_BD: Tensor) -> Tensor:
        """Predictions, (B, P), of the dtype of `x_BD`."""
        return projected(self.map, x_BD).to(x_BD.dtype)
