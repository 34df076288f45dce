"""Two branches become one, by any gate. B batch, T tokens, D width."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from core.kinds.gate import Gate


class Fusion(nn.Module):
    """y = g1 a + g2 b, where a gate that is shown [a; b] scales the branches as if each were a head of width D.

    With the gate `dual`, g2 = 1 - g1: the fusion is convex, so y lies between a and b in every channel, and where
    a = b it is both (up to rounding). Other gates scale the branches independently; `none` adds them up.
    """

    def __init__(self, gate: Gate, width: int) -> None:
        super().__init__()
        self.gate = gate.build(2 * width, 2, width)

    def forward(self, a_BTD: Tensor, b_BTD: Tensor) -> Tensor:
        """The fused branches, of the shape and dtype of `a_BTD`.

        Args:
            a_BTD: the first branch, (B, T, D), or (B, D) where it was pooled.
            b_BTD: the second branch, of the same shape.

        Raises:
            ValueError: the branches differ in shape.
        """
        if a_BTD.shape != b_BTD.shape:
            raise ValueError(f"branches that are fused have one shape, got {[*a_BTD.shape]} and {[*b_BTD.shape]}")
        if a_BTD.ndim == 2:
            return self.forward(a_BTD[:, None], b_BTD[:, None])[:, 0]
        both_B2TD = torch.stack([a_BTD, b_BTD], 1)
        return self.gate(both_B2TD, torch.cat([a_BTD, b_BTD], -1)).sum(1)
