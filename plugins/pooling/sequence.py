"""A learned weighted mean of the tokens. B batch, T tokens, D width."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from core.kinds.pooling import Pooling
from core.nn.norm import normalised
from core.params import params
from plugins.pooling._weighted import reality, softmax_mean, without_padding


@params
class Sequence(Pooling):
    """y = sum_l w_l x_l with w = softmax_l(a . LN(x_l)) over real tokens.

    Source: Hassani et al. 2021, arXiv:2104.05704, section 3.2, sequence pooling. The score vector a starts at zero, so
    that the arm begins as `mean`. The norm has no scale and shift of its own: a takes the scale, and the softmax does
    not see a shift.
    """

    def build(self, width: int) -> SequencePooling:
        return SequencePooling(width)


class SequencePooling(nn.Module):
    """The module of `Sequence`: the score vector, (D,)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.out_width = width
        self.score = nn.Parameter(torch.empty(width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """All tokens weigh the same at first."""
        nn.init.zeros_(self.score)

    def forward(
        self, x_BTD: Tensor, real_BT: Tensor | None = None, marks: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        real_BT = reality(x_BTD, real_BT)
        clean_BTD = without_padding(x_BTD, real_BT)
        logits_BT = (normalised(clean_BTD) * self.score).sum(-1)
        return softmax_mean(clean_BTD, logits_BT, real_BT).to(x_BTD.dtype)
