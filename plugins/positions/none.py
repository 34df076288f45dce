"""No position: the sources are a set."""

from __future__ import annotations

from typing import ClassVar

from torch import nn

from core.kinds.position import Position, PositionLayer
from core.params import params


@params
class NoPosition(Position):
    """Nothing tells where a token stands: the control arm of a position study, and right for sets of cells."""

    ordered: ClassVar[bool] = False

    def build(self, width: int, heads: int, head_width: int) -> Nowhere:
        return Nowhere()

    def params(self, width: int, heads: int, head_width: int) -> int:
        return 0

    def flops(self, width: int, heads: int, head_width: int, tokens: int) -> int:
        return 0


class Nowhere(PositionLayer, nn.Module):
    """The module of `NoPosition`."""
