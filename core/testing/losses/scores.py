"""Laws of losses that read scores of positive and negative items. N items."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from core.kinds.loss import ScoreLoss
from core.testing.draws import Drawable, close, coins, drawn, randn, seeds
from core.testing.losses.family import Drawn, law
from core.testing.losses.items import ItemLossLaws


class ScoreLossLaws(ItemLossLaws):
    """Laws of `core.kinds.loss.ScoreLoss`; parametrise a subclass over `loss`, a plugin or a strategy of plugins."""

    def arrays(self, seed: int, count: int) -> tuple[Tensor, ...]:
        return (2 * randn(seed, count),)

    def rest(self, seed: int, count: int) -> tuple[Tensor, ...]:
        # All negative and all positive are drawn too.
        return (coins(seed + 1, count, heads=(0.0, 0.5, 0.5, 1.0)[seed % 4]),)

    def after(self, count: int) -> tuple[Tensor, ...]:
        return (torch.arange(count) * 5,)

    @law
    @given(data=st.data(), count=st.integers(2, 7), seed=seeds, shift=st.floats(0.5, 20))
    def test_shift(self, loss: Drawable[ScoreLoss], data: st.DataObject, count: int, seed: int, shift: float) -> None:
        """A constant added to all scores changes a `shift_free` loss nowhere, and another one somewhere."""
        plugin = drawn(data, loss)
        case = self.mixed(seed, count)
        plain, moved = case.terms(plugin), case.moved(lambda x: x + shift).terms(plugin)
        if plugin.shift_free:
            close([moved[name] for name in plain], [*plain.values()], tolerance=1e-8)
        else:
            assert any((moved[name] - plain[name]).abs() > 1e-9 for name in plain)

    @law
    @given(data=st.data(), count=st.integers(2, 12), seed=seeds, spread=st.sampled_from([0.01, 0.1, 1.0, 10.0]))
    def test_swap(self, loss: Drawable[ScoreLoss], data: st.DataObject, count: int, seed: int, spread: float) -> None:
        """Where a negative stands above a positive, swapping the two never raises a `swap_safe` loss.

        Any other loss still falls when all positives are moved far above all negatives.
        """
        plugin = drawn(data, loss)
        (scores_N,), (positive_N,) = self.mixed_arrays(seed, count)
        scores_N = spread * scores_N
        real_N = torch.ones(count, dtype=torch.bool)
        before = plugin(scores_N, positive_N, real_N)
        if not plugin.swap_safe:
            return self.ordered(plugin, scores_N, positive_N)
        for i in positive_N.nonzero().flatten():
            for j in (~positive_N & (scores_N > scores_N[i])).nonzero().flatten():
                swapped_N = scores_N.clone()
                swapped_N[i], swapped_N[j] = scores_N[j], scores_N[i]
                after = plugin(swapped_N, positive_N, real_N)
                assert all(after[name] <= before[name] + 1e-9 for name in before)
        return None

    def ordered(self, plugin: ScoreLoss, scores_N: Tensor, positive_N: Tensor) -> None:
        real_N = torch.ones_like(positive_N)
        low_N = torch.where(positive_N, -30.0, 30.0).double()
        worst, best = (plugin(x_N, positive_N, real_N) for x_N in (low_N, -low_N))
        assert all(best[name] < worst[name] for name in best)

    @law
    @given(data=st.data(), count=st.integers(2, 9), seed=seeds)
    def test_perfect(self, loss: Drawable[ScoreLoss], data: st.DataObject, count: int, seed: int) -> None:
        """Positives far above negatives cost next to nothing, and the wrong way round they cost."""
        plugin = drawn(data, loss)
        _, (positive_N,) = self.mixed_arrays(seed, count)
        real_N = torch.ones(count, dtype=torch.bool)
        scores_N = torch.where(positive_N, 30.0, -30.0).double()
        assert all(value < 1e-3 for value in plugin(scores_N, positive_N, real_N).values())
        assert all(value > 0.05 for value in plugin(-scores_N, positive_N, real_N).values())

    @law
    @given(data=st.data(), count=st.integers(1, 7), seed=seeds, positive=st.booleans())
    def test_one_class(
        self, loss: Drawable[ScoreLoss], data: st.DataObject, count: int, seed: int, positive: bool
    ) -> None:
        """Without a positive, or without a negative, a `shift_free` loss is 0 with a gradient of 0, others finite."""
        plugin = drawn(data, loss)
        scores_N = randn(seed, count).requires_grad_()
        terms = plugin(scores_N, torch.full((count,), positive), torch.ones(count, dtype=torch.bool))
        total = torch.stack([*terms.values()]).sum()
        (grad_N,) = torch.autograd.grad(total, scores_N)
        if plugin.shift_free:
            assert total == 0
            assert (grad_N == 0).all()
        else:
            assert torch.isfinite(total)
            assert torch.isfinite(grad_N).all()

    def mixed(self, seed: int, count: int) -> Drawn:
        """Real items only, at least one of each class."""
        moving, (positive_N,) = self.mixed_arrays(seed, count)
        real_N = torch.ones(count, dtype=torch.bool)
        return Drawn(moving, lambda loss, moving: loss(*moving, positive_N, real_N))

    def mixed_arrays(self, seed: int, count: int) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        positive_N = coins(seed + 1, count)
        positive_N[0], positive_N[1] = True, False
        return self.arrays(seed, count), (positive_N,)
