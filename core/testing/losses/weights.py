"""Laws of losses that read matrices of weights."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from core.kinds.loss import Loss, WeightLoss
from core.testing.draws import Drawable, close, drawn, randn, seeds
from core.testing.losses.family import Drawn, LossFamilyLaws, law


class WeightLossLaws(LossFamilyLaws):
    """Laws of `core.kinds.loss.WeightLoss`; parametrise a subclass over `loss`."""

    def draw(self, loss: Loss, seed: int, count: int) -> Drawn:
        # The shapes are those of `facts`, whatever the count.
        matrices = tuple(randn(seed + i, *shape) for i, shape in enumerate(self.facts.matrices))
        return Drawn(matrices, lambda called, moving: called(list(moving)))

    @law
    @given(data=st.data(), seed=seeds)
    def test_turned(self, loss: Drawable[WeightLoss], data: st.DataObject, seed: int) -> None:
        """Turning the space of the inputs changes nothing, nor does another order of a matrix's outputs."""
        plugin = drawn(data, loss)
        case = self.draw(plugin, seed, 1)
        turn_II = torch.linalg.qr(randn(seed + 9, 5, 5)).Q
        plain, turned = case.terms(plugin), case.moved(lambda w: (w @ turn_II).flip(0)).terms(plugin)
        close([turned[name] for name in plain], [*plain.values()])

    @law
    @given(data=st.data(), seed=seeds)
    def test_zeros(self, loss: Drawable[WeightLoss], data: st.DataObject, seed: int) -> None:
        """Matrices of zeros cost nothing, with finite gradients."""
        plugin = drawn(data, loss)
        outcome = self.draw(plugin, seed, 1).moved(torch.zeros_like).outcome(plugin)
        assert (outcome[0] == 0).all()
        assert all(torch.isfinite(x).all() for x in outcome)

    @law
    @given(data=st.data())
    def test_shapes(self, loss: Drawable[WeightLoss], data: st.DataObject) -> None:
        """No matrix, a vector in its place, and a matrix without entries are refused with a sentence."""
        plugin = drawn(data, loss)
        for wrong in ([], [torch.ones(3), torch.ones(3)], [torch.ones(0, 3), torch.ones(2, 3)]):
            with pytest.raises(ValueError, match=r"\["):
                plugin(wrong)
