"""The mean of the tokens. B batch, T tokens, D width."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from core.kinds.pooling import Pooling
from core.params import params
from plugins.pooling._weighted import mean, reality, without_padding


@params
class Mean(Pooling):
    """All real tokens weigh the same: the control arm of a pooling study."""

    def build(self, width: int) -> MeanPooling:
        return MeanPooling(width)


class MeanPooling(nn.Module):
    """Has no parameters."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.out_width = width

    def forward(
        self, x_BTD: Tensor, real_BT: Tensor | None = None, marks: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        real_BT = reality(x_BTD, real_BT)
        return mean(without_padding(x_BTD, real_BT), real_BT).to(x_BTD.dtype)
