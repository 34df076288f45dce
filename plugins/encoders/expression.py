"""Cells as tokens of what they express. B sets, N cells, G genes, D width."""

from __future__ import annotations

from torch import Tensor, nn

from core.kinds import Card, Encoder, Tokens
from core.params import knob, params


@params
class Expression(Encoder):
    """relu(W_2 relu(W_1 e)) of a cell's expression e, as in LUNA (doi:10.1101/2025.02.13.638045) and AlphaSTomics.

    For backbones that keep places in a stream of their own; in others nothing then tells where a cell is.
    """

    hidden: int = knob(128, "inner width", ge=1)

    def build(self, card: Card, width: int) -> nn.Module:
        return _ExpressionEncoder(card.sizes["genes"], self.hidden, width)


class _ExpressionEncoder(nn.Module):
    def __init__(self, genes: int, hidden: int, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(genes, hidden), nn.ReLU(), nn.Linear(hidden, width), nn.ReLU())

    def forward(self, fields: dict[str, Tensor], real_BN: Tensor) -> Tokens:
        return Tokens(self.layers(fields["expression"]), real_BN)
