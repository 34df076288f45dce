"""Laws of losses that read two views of each item. N items, D features."""

from __future__ import annotations

from typing import ClassVar

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from core.kinds.loss import ViewLoss
from core.testing.draws import Drawable, drawn, randn
from core.testing.losses.family import law
from core.testing.losses.items import TwinLossLaws


class ViewLossLaws(TwinLossLaws):
    """Laws of `core.kinds.loss.ViewLoss`; parametrise a subclass over `loss`."""

    width: ClassVar[int] = 6

    def arrays(self, seed: int, count: int) -> tuple[Tensor, ...]:
        return randn(seed, count, self.width), randn(seed + 1, count, self.width)

    @law
    @given(data=st.data(), count=st.integers(2, 6))
    def test_alignment(self, loss: Drawable[ViewLoss], data: st.DataObject, count: int) -> None:
        """Views that agree, each unlike the others, cost less than the same views dealt to their neighbours."""
        plugin = drawn(data, loss)
        apart = torch.eye(self.width, dtype=torch.float64)[:count]
        real_N = torch.ones(count, dtype=torch.bool)
        right, wrong = plugin(apart, apart, real_N), plugin(apart, apart.roll(1, 0), real_N)
        assert all(right[name] < wrong[name] for name in right)
