"""A post-norm layer over three streams: cells, their places, and the time.

B sets, N cells, P axes of space, D width, T width of the time stream.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.kinds import Aux, Layout, Parts
from core.nn.padding import centred
from core.train.streams import Dropout
from plugins.backbones._places import PlaceNorm, distance

TINY = 1e-7
EPS = 1e-6
"""of layer norms"""


class Layer(nn.Module):
    """One layer.

        h = W_c [f(x), W_y y, g(p)]        a = attention(h)
        x1 = LN(x + W_x a)                 x' = LN(x1 + ffn(x1))
        p' = norm(W_p a), centred          y' = the time stream's step

    Attention has no residual of its own: it reads h, a mixture of the streams, and its output is added to x. There is
    no residual for places. Dropout is on what is added.

    Args:
        parts: attention, feed-forward network, residual, width and dropout.
        axes: of space; 0: nobody asks for new places.
        time: width of the time stream.
        cells: f, from D to D.
        places: g, from what `told` makes of a place.
        told: what g is shown, and how many channels that and its output have.
        spread: whether W_x is there; without it a is added as it is.
        block: inner width, over D, of a feed-forward network that follows attention in a whole pre-norm block; 0: bare.
        step: how the time goes on; None: no layer follows.
    """

    def __init__(
        self,
        parts: Parts,
        *,
        time: int,
        axes: int,
        cells: nn.Module,
        places: Places,
        spread: bool,
        block: float,
        step: nn.Module | None,
    ) -> None:
        super().__init__()
        width = parts.width
        self.cells, self.places = cells, places
        self.time = nn.Linear(time, time)
        self.mixed = nn.Linear(width + time + places.channels, width)
        attention = parts.attention.build(width)
        self.attention: nn.Module = PreNormBlock(attention, width, round(block * width)) if block else attention
        self.to_places = nn.Linear(width, axes) if axes else None
        self.to_cells: nn.Module = nn.Linear(width, width) if spread else nn.Identity()
        self.norm_places = PlaceNorm() if axes else None
        self.norm_attention = nn.LayerNorm(width, eps=EPS)
        self.norm_ffn = nn.LayerNorm(width, eps=EPS)
        self.ffn = parts.ffn.build(width)
        self.dropout_attention = Dropout(parts.dropout)
        self.dropout_ffn = Dropout(parts.dropout)
        self.residual_attention = parts.residual.build(width)
        self.residual_ffn = parts.residual.build(width)
        self.step = step

    def forward(
        self, x_BND: Tensor, place_BNP: Tensor, time_BT: Tensor, real_BN: Tensor | None, layout: Layout
    ) -> tuple[Tensor, Tensor, Tensor, Aux]:
        """The three streams after the layer, places centred over the real cells, and what the feed-forward says."""
        told_BT = self.time(time_BT)
        # W_c [f, y, g] as a sum: the time is one row a set, and no copy of it for every cell is made.
        x_part, time_part, place_part = self.mixed.weight.split(
            [x_BND.shape[-1], told_BT.shape[-1], self.places.channels], dim=1
        )
        mixed_BND = F.linear(self.cells(x_BND), x_part, self.mixed.bias)
        mixed_BND = mixed_BND + F.linear(self.places(place_BNP), place_part)
        mixed_BND = mixed_BND + F.linear(told_BT, time_part)[:, None]
        read_BND = self.attention(mixed_BND, real_BS=real_BN, layout=layout)
        if self.to_places is not None and self.norm_places is not None:
            place_BNP = centred(self.norm_places(self.to_places(read_BND), real_BN), real_BN)
        read_BND = self.dropout_attention(self.to_cells(read_BND))
        x_BND = self.norm_attention(self.residual_attention(x_BND, read_BND))
        thought_BND, aux = self.ffn(x_BND, real_BN)
        x_BND = self.norm_ffn(self.residual_ffn(x_BND, self.dropout_ffn(thought_BND)))
        return x_BND, place_BNP, time_BT if self.step is None else self.step(time_BT, told_BT), aux


class Places(nn.Module):
    """W_2 relu(W_1 told) of a place: its direction from the centre, and its distance where asked."""

    def __init__(self, axes: int, hidden: int, channels: int, *, far: bool) -> None:
        super().__init__()
        self.far, self.channels = far, channels
        self.layers = nn.Sequential(nn.Linear(axes + far, hidden), nn.ReLU(), nn.Linear(hidden, channels))

    def forward(self, place_BNP: Tensor) -> Tensor:
        distance_BN1 = distance(place_BNP)
        direction_BNP = place_BNP / (distance_BN1 + TINY)
        return self.layers(torch.cat([direction_BNP, distance_BN1], -1) if self.far else direction_BNP)


class TimeStep(nn.Module):
    """y1 = LN(y + W y), y' = LN(y1 + W_2 act(W_1 y1)), with dropout as elsewhere in the layer."""

    def __init__(self, width: int, inner: int, dropout: float, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.activation = activation
        self.up, self.down = nn.Linear(width, inner), nn.Linear(inner, width)
        self.norm_told, self.norm_ffn = nn.LayerNorm(width, eps=EPS), nn.LayerNorm(width, eps=EPS)
        self.dropout_told, self.dropout_inner, self.dropout_ffn = (Dropout(dropout) for _ in range(3))

    def forward(self, time_BT: Tensor, told_BT: Tensor) -> Tensor:
        time_BT = self.norm_told(time_BT + self.dropout_told(told_BT))
        inner = self.dropout_inner(self.activation(self.up(time_BT)))
        return self.norm_ffn(time_BT + self.dropout_ffn(self.down(inner)))


class PreNormBlock(nn.Module):
    """z = h + attention(LN(h)), z + W_2 gelu(W_1 LN(z)): where a whole transformer block stands for attention.

    It adds 2 D F + F + 5 D parameters to those of the attention, F the inner width.
    """

    def __init__(self, attention: nn.Module, width: int, inner: int) -> None:
        super().__init__()
        self.norm_attention, self.norm_ffn = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = attention
        self.ffn = nn.Sequential(nn.Linear(width, inner), nn.GELU(), nn.Linear(inner, width))

    def forward(self, x_BND: Tensor, *, real_BS: Tensor | None, layout: Layout) -> Tensor:
        x_BND = x_BND + self.attention(self.norm_attention(x_BND), real_BS=real_BS, layout=layout)
        return x_BND + self.ffn(self.norm_ffn(x_BND))
