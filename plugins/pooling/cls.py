"""The first token speaks for all. B batch, T tokens, D width."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from core.kinds.pooling import Pooling
from core.params import params
from plugins.pooling._weighted import reality


@params
class Cls(Pooling):
    """The first real token of a set, which an encoder puts there to gather what the others say.

    Source: Devlin et al. 2019, arXiv:1810.04805, token [CLS]. This piece adds no token: an encoder without one gives
    whatever comes first.
    """

    ordered: ClassVar[bool] = True

    def build(self, width: int) -> ClsPooling:
        return ClsPooling(width)


class ClsPooling(nn.Module):
    """Has no parameters."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.out_width = width

    def forward(
        self, x_BTD: Tensor, real_BT: Tensor | None = None, marks: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        real_BT = reality(x_BTD, real_BT)
        first_BT = real_BT & (real_BT.cumsum(1) == 1)
        return torch.where(first_BT[..., None], x_BTD, 0.0).sum(1).to(x_BTD.dtype)
