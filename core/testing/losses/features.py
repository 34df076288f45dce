"""Laws of losses that read features of items. N items, D features."""

from __future__ import annotations

from typing import ClassVar

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from core.kinds.loss import FeatureLoss
from core.testing.draws import Drawable, close, drawn, randn, seeds
from core.testing.losses.family import law
from core.testing.losses.items import ItemLossLaws


class FeatureLossLaws(ItemLossLaws):
    """Laws of `core.kinds.loss.FeatureLoss`; parametrise a subclass over `loss`."""

    width: ClassVar[int] = 4

    def arrays(self, seed: int, count: int) -> tuple[Tensor, ...]:
        return (randn(seed, count, self.width),)

    def rest(self, seed: int, count: int) -> tuple[Tensor, ...]:
        return ()

    @law
    @given(data=st.data(), count=st.integers(2, 7), seed=seeds)
    def test_moved(self, loss: Drawable[FeatureLoss], data: st.DataObject, count: int, seed: int) -> None:
        """A constant vector added to all items changes nothing, nor does another order of the features."""
        plugin = drawn(data, loss)
        real_N = torch.ones(count, dtype=torch.bool)
        (x_ND,) = self.arrays(seed, count)
        order = torch.tensor(data.draw(st.permutations(range(self.width))))
        plain, moved = plugin(x_ND, real_N), plugin((x_ND + 5 * randn(seed + 1, self.width))[:, order], real_N)
        close([moved[name] for name in plain], [*plain.values()])

    @law
    @given(data=st.data(), seed=seeds)
    def test_one_item(self, loss: Drawable[FeatureLoss], data: st.DataObject, seed: int) -> None:
        """One item does not vary: 0 with a gradient of 0."""
        plugin = drawn(data, loss)
        assert all((x == 0).all() for x in self.whole(seed, 1, torch.ones(1, dtype=torch.bool)).outcome(plugin))
