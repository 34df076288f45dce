"""A learned weighted mean whose evenness another set decides. B batch, T tokens, S tokens of another set, D width."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.kinds.pooling import Pooling
from core.nn.norm import normalised
from core.params import params
from plugins.pooling._weighted import mean, other_set, reality, softmax_mean, without_padding


@params
class AnchorTemp(Pooling):
    """y = sum_l w_l x_l with w = softmax_l(a . LN(x_l) / T), where T = 1 + softplus(u . mean LN(o)), o the other set.

    It is that of the marks `other` and `other_real`, else the set itself. T is at least 1, so no partner
    makes the weights steeper than `sequence` would. Both a and u start at zero, so that the arm begins as `mean`.
    """

    def build(self, width: int) -> AnchorTempPooling:
        return AnchorTempPooling(width)


class AnchorTempPooling(nn.Module):
    """The module of `AnchorTemp`: score vector and temperature vector, (D,) each."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.out_width = width
        self.score = nn.Parameter(torch.empty(width))
        self.temperature = nn.Parameter(torch.empty(width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """All tokens weigh the same at first."""
        nn.init.zeros_(self.score)
        nn.init.zeros_(self.temperature)

    def forward(
        self, x_BTD: Tensor, real_BT: Tensor | None = None, marks: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        real_BT = reality(x_BTD, real_BT)
        clean_BTD = without_padding(x_BTD, real_BT)
        other_BSD, other_BS = other_set(clean_BTD, real_BT, marks)
        gist_BD = mean(normalised(other_BSD), other_BS)
        temperature_B1 = 1 + F.softplus((gist_BD * self.temperature).sum(-1, keepdim=True))
        logits_BT = (normalised(clean_BTD) * self.score).sum(-1) / temperature_B1
        return softmax_mean(clean_BTD, logits_BT, real_BT).to(x_BTD.dtype)
