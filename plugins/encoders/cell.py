"""Cells as tokens.

B sets, N cells, G genes, P axes of space, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from core.kinds import Card, Encoder, Tokens
from core.params import knob, params


@params
class Cell(Encoder):
    """One token a cell, the sum of what its expression and its place say.

    A place enters as coordinates and distance from the centre of the set. Not as direction and distance, as in LUNA
    (doi:10.1101/2025.02.13.638045): a position shrunk towards the centre because it is noise would keep its direction.
    """

    hidden: float = knob(2.0, "inner width of both embeddings, in model widths", gt=0.0)

    def build(self, card: Card, width: int) -> nn.Module:
        return _CellEncoder(card.sizes["genes"], card.sizes["dims"], width, max(1, round(self.hidden * width)))


class _CellEncoder(nn.Module):
    def __init__(self, genes: int, dims: int, width: int, hidden: int) -> None:
        super().__init__()
        self.expression = nn.Sequential(nn.Linear(genes, hidden), nn.GELU(), nn.Linear(hidden, width))
        self.place = nn.Sequential(nn.Linear(dims + 1, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(self, fields: dict[str, Tensor], real_BN: Tensor) -> Tokens:
        position_BNP = fields["position"]
        radius_BN1 = torch.linalg.vector_norm(position_BNP, dim=-1, keepdim=True)
        place = torch.cat([position_BNP, radius_BN1], -1)
        return Tokens(self.expression(fields["expression"]) + self.place(place), real_BN)
