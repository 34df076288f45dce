"""Rotary position: queries and keys are turned by their place, so that their product depends on the distance.

B batch, N queries or sources, H heads, K head width, J = K / 2 pairs of channels.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from core.kinds.position import Places, Position, PositionLayer
from core.nn.overflow import saturated
from core.params import knob, params
from plugins.positions._along import Origin, along


@params
class Rope(Position):
    """Channels (2j, 2j + 1) of a query or key at place m are turned by the angle m theta_j, theta_j = base^(-2j / K).

    Su et al. 2021, arXiv:2104.09864, eq. 15. The angles are a pure function of place and configuration, in float64:
    there is no table that an earlier, longer input could have stretched. Values are not turned.

    `scaling` serves inputs longer than those a model was trained on. `linear`: m / s (Chen et al. 2023,
    arXiv:2306.15595). `ntk`: base s^(K / (K - 2)), which keeps the fast channels. `dynamic`: as `ntk`, with
    s = max(1, L / trained) from the true length L of the longer side of each sample.
    """

    base: float = knob(10_000.0, "slowest channel turns once in about 2 pi base tokens", gt=1.0)
    origin: Origin = knob("token", "place: index, index from the centre, or first coordinate")
    unit: float = knob(500.0, "of a coordinate, where origin = genomic", gt=0.0, acts="origin=genomic")
    scaling: Literal["none", "linear", "ntk", "dynamic"] = knob("none", "how longer inputs than trained are served")
    factor: float = knob(1.0, "s of linear and ntk", ge=1.0, acts="scaling=linear|ntk")
    trained: int = knob(512, "length that dynamic scaling starts from", ge=1, acts="scaling=dynamic")

    @property
    def indexed(self) -> bool:
        return self.origin != "genomic"

    def build(self, width: int, heads: int, head_width: int) -> Rotary:
        if head_width % 2:
            raise ValueError(
                f"rope turns pairs of channels, and heads are {head_width} wide: choose an even width a head"
            )
        if self.scaling in ("ntk", "dynamic") and head_width == 2:
            raise ValueError(f"{self.scaling} scaling needs heads of at least 4 channels, and they are 2 wide")
        return Rotary(self)

    def params(self, width: int, heads: int, head_width: int) -> int:
        return 0

    def flops(self, width: int, heads: int, head_width: int, tokens: int) -> int:
        return 0


class Rotary(PositionLayer, nn.Module):
    """The module of `Rope`; it owns nothing."""

    def __init__(self, plugin: Rope) -> None:
        super().__init__()
        self.plugin = plugin

    def heads(self, x_BHNK: Tensor, places: Places) -> Tensor:
        """Turned queries or keys, of the dtype given."""
        angle = self._angles(x_BHNK, places)  # (N, J) or (B, 1, N, J)
        wide = torch.promote_types(x_BHNK.dtype, torch.float32)
        cos, sin = angle.cos().to(wide), angle.sin().to(wide)
        even, odd = saturated(x_BHNK).to(wide).unflatten(-1, (-1, 2)).unbind(-1)
        turned = torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1)
        return saturated(turned.flatten(-2).to(x_BHNK.dtype))

    def _angles(self, x_BHNK: Tensor, places: Places) -> Tensor:
        plugin, width = self.plugin, x_BHNK.shape[-1]
        place = along(places, plugin.origin, plugin.unit, x_BHNK)
        if plugin.scaling == "linear":
            place = place / plugin.factor
        base = torch.full((1, 1), plugin.base, dtype=torch.float64, device=x_BHNK.device)
        if plugin.scaling in ("ntk", "dynamic"):
            base = base * self._stretch(places, base).clamp(min=1.0) ** (width / (width - 2))
        share_J = -torch.arange(0, width, 2, dtype=torch.float64, device=x_BHNK.device) / width
        angle = place[..., None] * (base**share_J)[:, None]  # (1 or B, N, J)
        return angle[0] if angle.shape[0] == 1 else angle[:, None]

    def _stretch(self, places: Places, like: Tensor) -> Tensor:
        """s of each sample, (B, 1) or (1, 1)."""
        if self.plugin.scaling == "ntk":
            return torch.full_like(like, self.plugin.factor)
        if places.longest_B is None:
            return torch.full_like(like, places.longest / self.plugin.trained)
        return places.longest_B[:, None].to(torch.float64) / self.plugin.trained
