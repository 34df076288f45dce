"""What networks do with places that are a stream of their own. B sets, N cells, P axes of space, F features."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from core.nn.padding import mean

SMALL = 1e-6
"""added to a distance before something is divided by it"""


class Radial(nn.Module):
    """p MLP(|p|) / |p|: a place moves along its own direction, and may come out on the other side of the centre."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(1, hidden), nn.ReLU(), nn.Linear(hidden, 1))

    def forward(self, place_BNP: Tensor) -> Tensor:
        distance_BN1 = distance(place_BNP)
        return place_BNP * self.layers(distance_BN1) / (distance_BN1 + SMALL)


class PlaceNorm(nn.Module):
    """w p / mean |p|, the mean over the real cells of a set, with one learned scale w."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(1))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """The scale starts at 1."""
        nn.init.ones_(self.weight)

    def forward(self, place_BNP: Tensor, real_BN: Tensor | None) -> Tensor:
        return self.weight * place_BNP / (mean(distance(place_BNP), real_BN) + SMALL)


def distance(place_BNP: Tensor) -> Tensor:
    """From the centre, (B, N, 1); its slope there is 0."""
    return torch.linalg.vector_norm(place_BNP, dim=-1, keepdim=True)
