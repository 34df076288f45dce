"""Sines and cosines of the place, added to the tokens. B batch, N queries or sources, D width."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from core.kinds.position import Places, Position, PositionLayer
from core.nn.overflow import saturated
from core.params import knob, params
from plugins.positions._along import Origin, along


@params
class Sinusoidal(Position):
    """Channel 2j of the token at place m gets sin(m base^(-2j / D)), channel 2j + 1 the cosine.

    Vaswani et al. 2017, section 3.5. Added before the projections, so values carry it too. It has no weights.
    """

    base: float = knob(10_000.0, "slowest channel turns once in about 2 pi base tokens", gt=1.0)
    origin: Origin = knob("token", "place: index, index from the centre, or first coordinate")
    unit: float = knob(500.0, "of a coordinate, where origin = genomic", gt=0.0, acts="origin=genomic")

    @property
    def indexed(self) -> bool:
        return self.origin != "genomic"

    def build(self, width: int, heads: int, head_width: int) -> Waves:
        return Waves(self)

    def params(self, width: int, heads: int, head_width: int) -> int:
        return 0

    def flops(self, width: int, heads: int, head_width: int, tokens: int) -> int:
        return 0


class Waves(PositionLayer, nn.Module):
    """The module of `Sinusoidal`."""

    def __init__(self, plugin: Sinusoidal) -> None:
        super().__init__()
        self.plugin = plugin

    def tokens(self, x_BND: Tensor, places: Places) -> Tensor:
        """Tokens and their waves, of the dtype given."""
        width = x_BND.shape[-1]
        place = along(places, self.plugin.origin, self.plugin.unit, x_BND)
        share = -torch.arange(0, width, 2, dtype=torch.float64, device=x_BND.device) / width
        phase = place[..., None] * self.plugin.base**share
        waves = torch.stack([phase.sin(), phase.cos()], dim=-1).flatten(-2)[..., :width]
        return saturated(x_BND + waves.to(x_BND.dtype))
