"""What losses obey that read items of which some are padding. N items."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from core.kinds.loss import Loss
from core.testing.draws import Drawable, close, coins, drawn, seeds
from core.testing.losses.family import ANYTHING, Called, Drawn, LossFamilyLaws, Terms, counts, law


class ItemLossLaws(LossFamilyLaws):
    """Further laws of the families that read items of which some are padding."""

    @abstractmethod
    def arrays(self, seed: int, count: int) -> tuple[Tensor, ...]:
        """The moving arrays, (count, ...) each, float64."""

    @abstractmethod
    def rest(self, seed: int, count: int) -> tuple[Tensor, ...]:
        """What else an item has, between the moving arrays and the flags of padding: (count,) each."""

    def after(self, count: int) -> tuple[Tensor, ...]:
        """What comes after the flags of padding."""
        return ()

    def draw(self, loss: Loss, seed: int, count: int) -> Drawn:
        return self.whole(seed, count, coins(seed + 2, count))

    def whole(self, seed: int, count: int, real_N: Tensor, order: Tensor | None = None) -> Drawn:
        order = torch.arange(count) if order is None else order
        rest = [x[order] for x in self.rest(seed, count)]
        after = [x[order] for x in self.after(count)]

        def call(loss: Called, moving: Sequence[Tensor]) -> Terms:
            where = moving[0].device
            return loss(*moving, *(x.to(where) for x in rest), real_N[order].to(where), *(x.to(where) for x in after))

        return Drawn(tuple(x[order] for x in self.arrays(seed, count)), call)

    @pytest.mark.parametrize("content", ANYTHING, ids=str)
    @law
    @given(data=st.data(), count=counts, seed=seeds)
    def test_padding(self, loss: Drawable[Loss], content: float, data: st.DataObject, count: int, seed: int) -> None:
        """Padding, whatever it holds, changes neither values nor gradients, and its own gradient is exactly 0.

        It counts as if the real items had come alone, in the loss and in its module's training.
        """
        plugin = drawn(data, loss)
        real_N = coins(seed + 2, count)
        everything = self.whole(seed, count, real_N).moved(
            lambda x: x.masked_fill(~real_N.view(-1, *[1] * (x.ndim - 1)), content)
        )
        alone = self.whole(seed, count, real_N, torch.arange(count)[real_N])
        for called in (lambda: plugin, lambda: self.started(plugin, seed).train()):
            padded, wanted = everything.outcome(called()), alone.outcome(called())
            assert all((x[~real_N] == 0).all() for x in padded[1:])
            close([padded[0], *(x[real_N] for x in padded[1:])], wanted)

    @law
    @given(data=st.data(), count=counts, seed=seeds)
    def test_order(self, loss: Drawable[Loss], data: st.DataObject, count: int, seed: int) -> None:
        """The order of the items changes no value, and gradients move with them, in training too."""
        plugin = drawn(data, loss)
        order = torch.tensor(data.draw(st.permutations(range(count))), dtype=torch.long)
        real_N = coins(seed + 2, count)
        for called in (lambda: plugin, lambda: self.started(plugin, seed).train()):
            plain = self.whole(seed, count, real_N).outcome(called())
            turned = self.whole(seed, count, real_N, order).outcome(called())
            close(turned, [plain[0], *(x[order] for x in plain[1:])])

    @law
    @given(data=st.data(), seed=seeds)
    def test_nothing_real(self, loss: Drawable[Loss], data: st.DataObject, seed: int) -> None:
        """A batch of padding only, and one without items, give 0 with a gradient of 0."""
        plugin = drawn(data, loss)
        for count in (0, 3):
            case = self.whole(seed, count, torch.zeros(count, dtype=torch.bool))
            assert all((x == 0).all() for x in case.outcome(plugin))

    @law
    @given(data=st.data(), count=st.integers(1, 7), seed=seeds)
    def test_shapes(self, loss: Drawable[Loss], data: st.DataObject, count: int, seed: int) -> None:
        """Arrays that do not fit each other are refused with a sentence, not broadcast."""
        plugin = drawn(data, loss)
        case = self.whole(seed, count, torch.ones(count, dtype=torch.bool))
        with pytest.raises(ValueError, match=r"\("):
            case.moved(lambda x: x[:, None]).terms(plugin)
        with pytest.raises(ValueError, match=r"\("):
            case.moved(lambda x: torch.cat([x, x])).terms(plugin)


class TwinLossLaws(ItemLossLaws):
    """Further laws of the families that compare two readings of the same items, neither of them the reference."""

    def rest(self, seed: int, count: int) -> tuple[Tensor, ...]:
        return ()

    @law
    @given(data=st.data(), count=st.integers(2, 7), seed=seeds)
    def test_symmetry(self, loss: Drawable[Loss], data: st.DataObject, count: int, seed: int) -> None:
        """Neither reading is the reference: exchanging them changes nothing."""
        plugin: Called = drawn(data, loss)
        first, second = self.arrays(seed, count)
        real_N = torch.ones(count, dtype=torch.bool)
        plain, turned = plugin(first, second, real_N), plugin(second, first, real_N)
        close([turned[name] for name in plain], [*plain.values()])
