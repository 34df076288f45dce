"""Learned Fourier features of coordinates. B batch, N queries or sources, P axes of space, D width, F features."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from core.kinds.position import Places, Position, PositionLayer
from core.nn.overflow import projected, saturated
from core.params import knob, params
from plugins.positions._added import coordinates


@params
class Fourier(Position):
    """x + W [cos(2 pi R p), sin(2 pi R p)], R learned and drawn from N(0, frequency^2) at first.

    Tancik et al. 2020, arXiv:2006.10739, section 5, for the features; Li et al. 2021, arXiv:2106.02795, for learning
    them. Two tokens' features have a product that depends on their distance. W starts at zero, so that at first nothing
    is added.
    """

    axes: int = knob(2, "axes of space", ge=1)
    features: int = knob(64, "waves", ge=1)
    frequency: float = knob(0.5, "standard deviation of the first wave numbers, per unit of the coordinates", gt=0.0)

    @property
    def indexed(self) -> bool:
        return False

    def space(self) -> int:
        return self.axes

    def build(self, width: int, heads: int, head_width: int) -> FourierFeatures:
        return FourierFeatures(self, width)

    def params(self, width: int, heads: int, head_width: int) -> int:
        return self.features * (self.axes + 2 * width)

    def flops(self, width: int, heads: int, head_width: int, tokens: int) -> int:
        return 2 * tokens * self.features * (self.axes + 2 * width)


class FourierFeatures(PositionLayer, nn.Module):
    """The module of `Fourier`."""

    def __init__(self, plugin: Fourier, width: int) -> None:
        super().__init__()
        self.plugin = plugin
        self.waves = nn.Parameter(torch.empty(plugin.features, plugin.axes))
        self.weight = nn.Parameter(torch.empty(width, 2 * plugin.features))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Wave numbers at random, no features yet."""
        nn.init.normal_(self.waves, std=self.plugin.frequency)
        nn.init.zeros_(self.weight)

    def tokens(self, x_BND: Tensor, places: Places) -> Tensor:
        """Tokens and their features, of the dtype given."""
        place_BNP = coordinates(places, self.plugin.axes, "fourier")
        wide = torch.promote_types(self.waves.dtype, torch.float32)
        with torch.autocast("cpu" if x_BND.is_meta else x_BND.device.type, enabled=False):
            phase_BNF = 2 * math.pi * (place_BNP.to(wide) @ self.waves.to(wide).T)  # a rounded phase is another phase
        features_BN2F = torch.cat([phase_BNF.cos(), phase_BNF.sin()], dim=-1) / math.sqrt(self.plugin.features)
        told_BND = projected(lambda f: f @ self.weight.T, features_BN2F.to(self.weight.dtype))
        return saturated(x_BND + told_BND.to(x_BND.dtype))
