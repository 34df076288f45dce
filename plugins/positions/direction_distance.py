"""Direction from the centre and distance to it, added to the tokens.

B batch, N queries or sources, P axes of space, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from core.kinds.position import Places, Position, PositionLayer
from core.nn.overflow import projected, saturated
from core.params import knob, params
from plugins.positions._added import coordinates

TINY = 1e-7


@params
class DirectionDistance(Position):
    """x + W_2 relu(W_1 [p / |p|, |p|]): where a cell lies from the centre of its section, and how far.

    After the positional encoding of AlphaSTomics, which keeps P channels where this adds D. A cell at the centre has
    the direction 0. W_2 starts at zero, so that at first nothing is added.
    """

    axes: int = knob(2, "axes of space", ge=1)
    hidden: int = knob(64, "width of the hidden layer", ge=1)

    @property
    def indexed(self) -> bool:
        return False

    def space(self) -> int:
        return self.axes

    def build(self, width: int, heads: int, head_width: int) -> DirectionDistanceLayer:
        return DirectionDistanceLayer(self, width)

    def params(self, width: int, heads: int, head_width: int) -> int:
        return self.hidden * (self.axes + 2 + width)

    def flops(self, width: int, heads: int, head_width: int, tokens: int) -> int:
        return 2 * tokens * self.hidden * (self.axes + 1 + width)


class DirectionDistanceLayer(PositionLayer, nn.Module):
    """The module of `DirectionDistance`."""

    def __init__(self, plugin: DirectionDistance, width: int) -> None:
        super().__init__()
        self.plugin = plugin
        self.first = nn.Linear(plugin.axes + 1, plugin.hidden)
        self.second = nn.Parameter(torch.empty(width, plugin.hidden))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Nothing is added at first; the hidden layer starts by itself."""
        nn.init.zeros_(self.second)

    def tokens(self, x_BND: Tensor, places: Places) -> Tensor:
        """Tokens and their direction and distance, of the dtype given."""
        place_BNP = coordinates(places, self.plugin.axes, "direction_distance")
        place_BNP = place_BNP.to(torch.promote_types(self.second.dtype, torch.float32))  # a square overflows in half
        # The square of the norm is floored, as the slope of a norm at 0 is not a number.
        distance_BN1 = place_BNP.square().sum(-1, keepdim=True).clamp(min=TINY**2).sqrt()
        told = torch.cat([place_BNP / distance_BN1, distance_BN1], dim=-1).to(self.second.dtype)
        hidden_BNF = torch.relu(projected(self.first, told))
        return saturated(x_BND + projected(lambda h: h @ self.second.T, hidden_BNF).to(x_BND.dtype))
