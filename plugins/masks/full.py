"""Every query sees every source."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from core.kinds.mask import Band, Mask
from core.params import params


@params
class Full(Mask):
    """All pairs are visible: tokens are an unordered set.

    Padding is no part of it: that is data and reaches attention as `real_BS`.
    """

    ordered: ClassVar[bool] = False

    @property
    def band(self) -> Band:
        return Band()

    def sees(self, q: Tensor, s: Tensor) -> Tensor:
        return torch.ones(torch.broadcast_shapes(q.shape, s.shape), dtype=torch.bool, device=q.device)
