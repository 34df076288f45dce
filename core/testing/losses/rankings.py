"""Laws of losses that compare two scorings of the same items. N items."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from core.kinds.loss import RankingLoss
from core.testing.draws import Drawable, close, drawn, randn, seeds
from core.testing.losses.family import law
from core.testing.losses.items import TwinLossLaws


class RankingLossLaws(TwinLossLaws):
    """Laws of `core.kinds.loss.RankingLoss`; parametrise a subclass over `loss`."""

    def arrays(self, seed: int, count: int) -> tuple[Tensor, ...]:
        return randn(seed, count), randn(seed + 1, count)

    @law
    @given(data=st.data(), count=st.integers(2, 7), seed=seeds, shift=st.floats(-20, 20))
    def test_agreement(
        self, loss: Drawable[RankingLoss], data: st.DataObject, count: int, seed: int, shift: float
    ) -> None:
        """It is 0, at its lowest, where the scorings differ by a constant, and above 0 where pairs differ."""
        plugin = drawn(data, loss)
        first, second = self.arrays(seed, count)
        real_N = torch.ones(count, dtype=torch.bool)
        assert all(abs(value) < 1e-12 for value in plugin(first, first + shift, real_N).values())
        assert all(value > 1e-9 for value in plugin(first, first + second * 3, real_N).values())
        plain, moved = plugin(first, second, real_N), plugin(first + shift, second, real_N)
        close([moved[name] for name in plain], [*plain.values()])
