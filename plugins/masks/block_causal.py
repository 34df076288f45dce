"""Causal over blocks of tokens, full within a block."""

from __future__ import annotations

from torch import Tensor

from core.kinds.mask import Mask
from core.params import knob, params


@params
class BlockCausal(Mask):
    """Query q sees source s where floor(s / block) <= floor(q / block).

    Not to be confused with a local mask: all earlier blocks stay visible, so its cost grows with Q * S.
    """

    block: int = knob(128, "tokens of a block", ge=1)

    def sees(self, q: Tensor, s: Tensor) -> Tensor:
        return s // self.block <= q // self.block
