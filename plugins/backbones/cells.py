"""A pre-norm transformer over the cells of a set, told the times by its norms.

B sets, N cells, G genes, P axes of space, D width.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from core.kinds import FFN, Attention, Aux, Backbone, Card, Layout, Parts, Residual
from core.nn.padding import blanked, hiding
from core.nn.recompute import recomputed
from core.params import params
from core.train.streams import Dropout

FREQUENCIES = 16
"""sines and cosines that a time is told in"""

MODALITIES = ("expression", "position")


@params
class Cells(Backbone):
    """Tokens of cells, pre-norm layers that every time scales and shifts, one read-out a modality."""

    def build(self, card: Card, parts: Parts) -> nn.Module:
        return Network(
            card,
            width=parts.width,
            depth=parts.depth,
            dropout=parts.dropout,
            encoder=parts.tokens(card),
            attention=parts.attention,
            ffn=parts.ffn,
            residual=parts.residual,
            outputs=parts.outputs,
            recompute=parts.recompute,
        )


class Network(nn.Module):
    """Noisy expression and positions, each at its own time, to clean ones.

    Every layer is told both times by scale and shift of its norms (Peebles & Xie 2023, arXiv:2212.09748, adaLN), and
    padding is respected in every layer. Outputs are raw: the system weighs them against the input.

    Args:
        outputs: by modality that is to be predicted, how many numbers a cell. A modality that is always given has no
            read-out and no time.
        recompute: keep only what enters a layer, and compute the rest again in the backward pass.
    """

    def __init__(
        self,
        card: Card,
        *,
        width: int,
        depth: int,
        dropout: float,
        encoder: nn.Module,
        attention: Attention,
        ffn: FFN,
        residual: Residual,
        outputs: Mapping[str, int],
        recompute: bool,
    ) -> None:
        super().__init__()
        self.noised = tuple(m for m in MODALITIES if m in outputs)
        self.recompute = recompute
        self.encoder = encoder
        self.time = nn.Sequential(
            nn.Linear(2 * FREQUENCIES * len(self.noised), width), nn.SiLU(), nn.Linear(width, width)
        )
        self.blocks = nn.ModuleList(Block(width, dropout, attention, ffn, residual) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        if "expression" in outputs:
            self.expression = nn.Sequential(
                nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, outputs["expression"])
            )
        if "position" in outputs:
            self.position = nn.Linear(width, outputs["position"])

    def forward(
        self, fields: dict[str, Tensor], times: dict[str, Tensor], real_BN: Tensor
    ) -> tuple[dict[str, Tensor], Aux]:
        """Raw outputs by modality and what the layers say beside them, both named by the layer."""
        hidden_BN = hiding(real_BN)
        fields = fields | {m: blanked(fields[m], hidden_BN) for m in MODALITIES}
        condition_BD = self.time(torch.cat([_waves(times[m]) for m in self.noised], -1))
        x_BND = self.encoder(fields, real_BN).x_BTD
        # Attention may ask where cells are as far as the noise lets it be known; by default nothing does.
        layout = Layout(place_BQP=fields["position"], memo={})
        losses: dict[str, Tensor] = {}
        stats: dict[str, Tensor] = {}
        for i, block in enumerate(self.blocks):
            given = (x_BND, condition_BD, hidden_BN, layout)
            x_BND, aux = recomputed(block, *given) if self.recompute else block(*given)
            losses |= {f"{name}/{i}": value for name, value in aux.losses.items()}
            stats |= {f"layer {i}/{name}": value for name, value in aux.stats.items()}
        x_BND = self.norm(x_BND)
        return {m: self.get_submodule(m)(x_BND) for m in self.noised}, Aux(losses, stats)


class Block(nn.Module):
    """Attention and feed-forward, each on a normalised, modulated input, each joined to the stream."""

    def __init__(self, width: int, dropout: float, attention: Attention, ffn: FFN, residual: Residual) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(width, elementwise_affine=False)
        self.norm_ffn = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation = nn.Linear(width, 6 * width)
        self.attention = attention.build(width)
        self.ffn = ffn.build(width)
        self.dropout_attention = Dropout(dropout)
        self.dropout_ffn = Dropout(dropout)
        self.residual_attention = residual.build(width)
        self.residual_ffn = residual.build(width)

    def forward(
        self, x_BND: Tensor, condition_BD: Tensor, real_BN: Tensor | None, layout: Layout
    ) -> tuple[Tensor, Aux]:
        steer = self.modulation(nn.functional.silu(condition_BD))[:, None].chunk(6, -1)
        scale_a, shift_a, open_a, scale_f, shift_f, open_f = steer
        read = self.attention(self.norm_attention(x_BND) * (1 + scale_a) + shift_a, real_BS=real_BN, layout=layout)
        x_BND = self.residual_attention(x_BND, (1 + open_a) * self.dropout_attention(read))
        thought, aux = self.ffn(self.norm_ffn(x_BND) * (1 + scale_f) + shift_f, real_BN)
        return self.residual_ffn(x_BND, (1 + open_f) * self.dropout_ffn(thought)), aux


def _waves(t_B: Tensor) -> Tensor:
    """A time in [0, 1] as sines and cosines of octaves of one turn, (B, 2 FREQUENCIES)."""
    frequency = torch.exp2(torch.arange(FREQUENCIES, device=t_B.device, dtype=t_B.dtype) * (8 / FREQUENCIES)) * math.pi
    phase = t_B[:, None] * frequency
    return torch.cat([phase.sin(), phase.cos()], -1)
