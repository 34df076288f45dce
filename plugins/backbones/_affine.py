"""An affine map with the first values of the perturbation networks. I inputs, O outputs."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.nn.overflow import projected


class Affine(nn.Module):
    """x W^T + b, where W starts Glorot-uniform, or at 0, and b at 0.

    Glorot and Bengio 2010; at 0: Peebles and Xie 2023, arXiv:2212.09748, section 3.2.
    """

    def __init__(self, inputs: int, outputs: int, *, zero: bool = False, bias: bool = True) -> None:
        super().__init__()
        self.zero = zero
        self.weight = nn.Parameter(torch.empty(outputs, inputs))
        self.bias = nn.Parameter(torch.empty(outputs)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Glorot-uniform, or all zeros."""
        if self.zero:
            nn.init.zeros_(self.weight)
        else:
            nn.init.xavier_uniform_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x_I: Tensor) -> Tensor:
        return projected(lambda x: F.linear(x, self.weight, self.bias), x_I)


class Beside(nn.Module):
    """W [x; p] + b where p is one vector a set: W_x x + (W_p p + b), so that no copy of p for every token is made."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.map = Affine(2 * width, width)

    def forward(self, x_BND: Tensor, p_BD: Tensor) -> Tensor:
        of_x, of_p = self.map.weight.split(self.width, 1)
        told_BD = projected(lambda p: F.linear(p, of_p, self.map.bias), p_BD)
        return projected(lambda x: F.linear(x, of_x), x_BND) + told_BD[:, None]
