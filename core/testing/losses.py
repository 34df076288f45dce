"""What every loss that does not compare values must do, one class a family; `core.testing.loss` has that of values.

@pytest.mark.parametrize("loss", [Bce(), st.builds(Bce, pos_weight=st.floats(0.1, 10))], ids=repr)
class TestBce(ScoreLossLaws): ...

N items, D features, C groups.
"""

from __future__ import annotations

import io
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, TypeAlias

import attrs
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from core.kinds.loss import (
    FeatureLoss,
    Loss,
    LossFacts,
    RankingLoss,
    SampleLoss,
    ScoreLoss,
    ViewLoss,
    WeightLoss,
)
from core.testing.draws import Drawable, close, coins, drawn, randn, seeds
from core.testing.loss import LossLaws
from core.train.streams import Streams

Terms = dict[str, Tensor]
Called: TypeAlias = Any
"""a loss or the module that it builds: the families differ in what they are called with"""
law = settings(
    deadline=None, max_examples=8, suppress_health_check=[HealthCheck.differing_executors, HealthCheck.too_slow]
)
counts = st.integers(0, 7)
HUGE = (1e30, -1e30, float("inf"), float("-inf"))
ANYTHING = (0.0, 1e30, float("inf"), float("nan"))
"""what padding may hold"""


@attrs.frozen
class Drawn:
    """One call of a loss: the arrays that have a gradient, and how the loss is given them."""

    moving: tuple[Tensor, ...]
    call: Callable[[Called, Sequence[Tensor]], Terms]
    """(loss or module, arrays in place of `moving`) -> terms"""

    def terms(self, loss: Called) -> Terms:
        return self.call(loss, self.moving)

    def outcome(self, loss: Called, half: bool = False) -> list[Tensor]:
        """Values in order of their names, and the gradient of their sum for each moving array.

        With `half` the loss is called, and not differentiated, under autocast, as a trainer does.
        """
        moving = [x.detach().requires_grad_() for x in self.moving]
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            terms = self.call(loss, moving)
        values = torch.stack([terms[name] for name in sorted(terms)])
        assert values.requires_grad, "a loss has a gradient, be it 0"
        grads = torch.autograd.grad(values.sum(), moving, allow_unused=True, materialize_grads=True)
        return [values.detach(), *grads]

    def moved(self, change: Callable[[Tensor], Tensor]) -> Drawn:
        return attrs.evolve(self, moving=tuple(change(x) for x in self.moving))


class LossFamilyLaws(ABC):
    """Laws of every family but that of values; a family says how its inputs are drawn."""

    facts: ClassVar[LossFacts] = LossFacts(items=40, matrices=((3, 5), (4, 5)))

    @abstractmethod
    def draw(self, loss: Loss, seed: int, count: int) -> Drawn:
        """Ordinary float64 inputs of about `count` items."""

    @law
    @given(data=st.data(), count=counts, seed=seeds)
    def test_scalars(self, loss: Drawable[Loss], data: st.DataObject, count: int, seed: int) -> None:
        """Every term is a named finite scalar, float32 or wider, with finite gradients, for no item and for many."""
        plugin = drawn(data, loss)
        for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
            case = self.draw(plugin, seed, count).moved(lambda x, dtype=dtype: x.to(dtype))  # type: ignore[misc]
            terms = case.terms(plugin)
            assert terms
            assert all(name and value.shape == () for name, value in terms.items())
            wanted = torch.float64 if dtype == torch.float64 else torch.float32
            assert all(value.dtype == wanted for value in terms.values())
            outcome = case.outcome(plugin)
            assert all(torch.isfinite(x).all() for x in outcome)
            if plugin.nonnegative:
                assert (outcome[0] >= 0).all()
            assert [x.dtype for x in outcome[1:]] == [dtype] * len(case.moving)

    @law
    @given(data=st.data(), count=st.integers(1, 7), seed=seeds, share=st.floats(0.05, 1))
    def test_huge(self, loss: Drawable[Loss], data: st.DataObject, count: int, seed: int, share: float) -> None:
        """Infinite and huge entries, however many, give finite values and gradients."""
        plugin = drawn(data, loss)

        def spoil(x: Tensor) -> Tensor:
            huge = torch.tensor(HUGE, dtype=x.dtype)[torch.arange(x.numel()).view_as(x) % len(HUGE)]
            return torch.where(coins(seed, *x.shape, heads=share), huge, x)

        for dtype in (torch.float64, torch.float32):
            case = self.draw(plugin, seed, count).moved(lambda x, dtype=dtype: spoil(x.to(dtype)))  # type: ignore[misc]
            assert all(torch.isfinite(x).all() for x in case.outcome(plugin))

    @law
    @given(data=st.data(), count=counts, seed=seeds)
    def test_half(self, loss: Drawable[Loss], data: st.DataObject, count: int, seed: int) -> None:
        """Half-precision inputs, under autocast, count as their float32 values do: nothing is rounded inside."""
        plugin = drawn(data, loss)
        half = self.draw(plugin, seed, count).moved(lambda x: x.bfloat16())
        wanted = half.moved(lambda x: x.float()).outcome(plugin)
        close(half.outcome(plugin, half=True), [wanted[0], *(x.bfloat16() for x in wanted[1:])], tolerance=1e-6)

    @law
    @given(data=st.data(), count=st.integers(2, 6), seed=seeds)
    def test_gradient(self, loss: Drawable[Loss], data: st.DataObject, count: int, seed: int) -> None:
        """Gradients agree with finite differences in float64."""
        plugin = drawn(data, loss)
        case = self.draw(plugin, seed, count)

        def total(*moving: Tensor) -> Tensor:
            return torch.stack([*case.call(plugin, moving).values()]).sum()

        moving = tuple(x.clone().requires_grad_() for x in case.moving)
        assert torch.autograd.gradcheck(total, moving, eps=1e-6, atol=1e-6, rtol=1e-4)

    @law
    @given(data=st.data(), count=counts)
    def test_meta(self, loss: Drawable[Loss], data: st.DataObject, count: int) -> None:
        """Loss and module run without memory, forward and backward, for shapes and FLOPs."""
        plugin = drawn(data, loss)
        case = self.draw(plugin, 0, count)
        with torch.device("meta"):
            module = plugin.build(self.facts)
        for called in (plugin, module):
            moving = [torch.empty_like(x, device="meta", requires_grad=True) for x in case.moving]
            with torch.device("meta"):
                terms = case.call(called, moving)
            total = torch.stack([*terms.values()]).sum()
            assert total.is_meta
            total.backward()

    @law
    @given(data=st.data(), count=counts, seed=seeds)
    def test_module(self, loss: Drawable[Loss], data: st.DataObject, count: int, seed: int) -> None:
        """A module in evaluation is the loss; its training is finite, repeatable, free of the global random state."""
        plugin = drawn(data, loss)
        modules = [self.started(plugin, seed) for _ in range(2)]
        before = torch.get_rng_state()
        steps = [self.draw(plugin, seed + i, count) for i in range(3)]
        told = [[case.outcome(module.train()) for case in steps] for module in modules]
        assert torch.equal(torch.get_rng_state(), before)
        assert all(torch.isfinite(x).all() for outcome in told[0] for x in outcome)
        for one, other in zip(*told, strict=True):
            close(one, other, tolerance=0.0)
        close(steps[0].outcome(modules[0].eval()), steps[0].outcome(plugin), tolerance=0.0)

    @law
    @given(data=st.data(), count=counts, seed=seeds)
    def test_state(self, loss: Drawable[Loss], data: st.DataObject, count: int, seed: int) -> None:
        """A module that was saved and loaded goes on as the one that was not."""
        plugin = drawn(data, loss)
        one, other = self.started(plugin, seed).train(), self.started(plugin, seed + 1).train()
        first, second = (self.draw(plugin, seed + i, count) for i in range(2))
        first.outcome(one)
        file = io.BytesIO()
        torch.save(one.state_dict(), file)
        file.seek(0)
        other.load_state_dict(torch.load(file, weights_only=True))
        close(second.outcome(one), second.outcome(other), tolerance=0.0)

    def started(self, loss: Loss, seed: int) -> nn.Module:
        module = loss.build(self.facts)
        Streams(seed).initialise(module)
        return module.double()


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


class RankingLossLaws(ItemLossLaws):
    """Laws of `core.kinds.loss.RankingLoss`; parametrise a subclass over `loss`."""

    def arrays(self, seed: int, count: int) -> tuple[Tensor, ...]:
        return randn(seed, count), randn(seed + 1, count)

    def rest(self, seed: int, count: int) -> tuple[Tensor, ...]:
        return ()

    @law
    @given(data=st.data(), count=st.integers(2, 7), seed=seeds)
    def test_symmetry(self, loss: Drawable[RankingLoss], data: st.DataObject, count: int, seed: int) -> None:
        """Neither scoring is the reference: exchanging them changes nothing."""
        plugin = drawn(data, loss)
        first, second = self.arrays(seed, count)
        real_N = torch.ones(count, dtype=torch.bool)
        plain, turned = plugin(first, second, real_N), plugin(second, first, real_N)
        close([turned[name] for name in plain], [*plain.values()])

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


class ViewLossLaws(ItemLossLaws):
    """Laws of `core.kinds.loss.ViewLoss`; parametrise a subclass over `loss`."""

    width: ClassVar[int] = 6

    def arrays(self, seed: int, count: int) -> tuple[Tensor, ...]:
        return randn(seed, count, self.width), randn(seed + 1, count, self.width)

    def rest(self, seed: int, count: int) -> tuple[Tensor, ...]:
        return ()

    @law
    @given(data=st.data(), count=st.integers(2, 7), seed=seeds)
    def test_symmetry(self, loss: Drawable[ViewLoss], data: st.DataObject, count: int, seed: int) -> None:
        """Neither view is the reference: exchanging them changes nothing."""
        plugin = drawn(data, loss)
        first, second = self.arrays(seed, count)
        real_N = torch.ones(count, dtype=torch.bool)
        plain, turned = plugin(first, second, real_N), plugin(second, first, real_N)
        close([turned[name] for name in plain], [*plain.values()])

    @law
    @given(data=st.data(), count=st.integers(2, 6))
    def test_alignment(self, loss: Drawable[ViewLoss], data: st.DataObject, count: int) -> None:
        """Views that agree, each unlike the others, cost less than the same views dealt to their neighbours."""
        plugin = drawn(data, loss)
        apart = torch.eye(self.width, dtype=torch.float64)[:count]
        real_N = torch.ones(count, dtype=torch.bool)
        right, wrong = plugin(apart, apart, real_N), plugin(apart, apart.roll(1, 0), real_N)
        assert all(right[name] < wrong[name] for name in right)


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


class SampleLossLaws(LossFamilyLaws):
    """Laws of `core.kinds.loss.SampleLoss`; parametrise a subclass over `loss`."""

    width: ClassVar[int] = 3
    rows: ClassVar[int] = 6
    """on each side of a group, where the loss does not ask for more"""

    def draw(self, loss: Loss, seed: int, count: int) -> Drawn:
        return self.case(*self.arrays(seed, 4 * count, 3))

    def arrays(self, seed: int, rows: int, kinds: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Prediction, target, and their groups from 0 to `kinds`, -1 for rows that do not count."""
        groups = [
            torch.randint(-1, kinds, (rows,), generator=torch.Generator().manual_seed(seed + i)) for i in range(2)
        ]
        # The target is rounded, so that it is the same in each dtype.
        target_MF = randn(seed + 1, rows, self.width, dtype=torch.bfloat16).double()
        return randn(seed, rows, self.width), target_MF, groups[0], groups[1]

    def case(self, predicted_NF: Tensor, target_MF: Tensor, group_N: Tensor, group_M: Tensor) -> Drawn:
        def call(loss: Called, moving: Sequence[Tensor]) -> Terms:
            groups = (x.to(moving[0].device) for x in (group_N, group_M))
            return loss(moving[0], target_MF.to(moving[0]), *groups)

        return Drawn((predicted_NF,), call)

    @pytest.mark.parametrize("content", ANYTHING, ids=str)
    @law
    @given(data=st.data(), count=counts, seed=seeds)
    def test_uncounted(
        self, loss: Drawable[SampleLoss], content: float, data: st.DataObject, count: int, seed: int
    ) -> None:
        """Rows of a group below 0, whatever they hold, count as if they were not there; their gradient is 0."""
        plugin = drawn(data, loss)
        x_NF, y_MF, group_N, group_M = self.arrays(seed, 4 * count, 2)
        in_N, in_M = group_N >= 0, group_M >= 0
        spoilt_NF, spoilt_MF = x_NF.masked_fill(~in_N[:, None], content), y_MF.masked_fill(~in_M[:, None], content)
        padded = self.case(spoilt_NF, spoilt_MF, group_N, group_M).outcome(plugin)
        alone = self.case(x_NF[in_N], y_MF[in_M], group_N[in_N], group_M[in_M]).outcome(plugin)
        assert (padded[1][~in_N] == 0).all()
        close([padded[0], padded[1][in_N]], alone)

    @law
    @given(data=st.data(), count=counts, seed=seeds)
    def test_order(self, loss: Drawable[SampleLoss], data: st.DataObject, count: int, seed: int) -> None:
        """Rows of the two samples are not paired: each may be shuffled on its own, and groups may be renumbered."""
        plugin = drawn(data, loss)
        rows = 4 * count
        x_NF, y_MF, group_N, group_M = self.arrays(seed, rows, 3)
        n, m = (torch.randperm(rows, generator=torch.Generator().manual_seed(seed + i)) for i in range(2))
        names = torch.tensor([7, 2, 40, -1])
        value, grad_NF = self.case(x_NF, y_MF, group_N, group_M).outcome(plugin)
        turned = self.case(x_NF[n], y_MF[m], names[group_N][n], names[group_M][m]).outcome(plugin)
        close(turned, [value, grad_NF[n]])

    @law
    @given(data=st.data(), seed=seeds)
    def test_constant_target(self, loss: Drawable[SampleLoss], data: st.DataObject, seed: int) -> None:
        """The gradient reaches the prediction alone."""
        plugin = drawn(data, loss)
        rows = max(self.rows, plugin.enough())
        x_NF, y_MF = (randn(seed + i, rows, self.width).requires_grad_() for i in range(2))
        one = torch.zeros(rows, dtype=torch.long)
        torch.stack([*plugin(x_NF, y_MF, one, one).values()]).sum().backward()
        assert x_NF.grad is not None
        assert (x_NF.grad != 0).any()
        assert y_MF.grad is None

    @law
    @given(data=st.data(), seed=seeds)
    def test_groups_apart(self, loss: Drawable[SampleLoss], data: st.DataObject, seed: int) -> None:
        """A batch scores the mean of its groups alone, and a group without a counterpart adds nothing."""
        plugin = drawn(data, loss)
        rows = max(self.rows, plugin.enough())
        x_NF, y_MF = (randn(seed + i, 3 * rows, self.width) for i in range(2))
        third = torch.arange(3).repeat_interleave(rows)
        parts = [third == c for c in range(2)]
        alone = [self.case(x_NF[p], y_MF[p], third[p], third[p]).terms(plugin) for p in parts]
        both = self.case(x_NF, y_MF, third, torch.where(third == 2, 5, third)).terms(plugin)
        for name, value in both.items():
            close([value], [torch.stack([terms[name] for terms in alone]).mean()])

    @law
    @given(data=st.data(), seed=seeds)
    def test_shift(self, loss: Drawable[SampleLoss], data: st.DataObject, seed: int) -> None:
        """A far shift of the prediction costs more than none; moving both samples together costs nothing."""
        plugin = drawn(data, loss)
        rows = max(self.rows, plugin.enough())
        x_NF, y_MF = (randn(seed + i, rows, self.width) for i in range(2))
        one = torch.zeros(rows, dtype=torch.long)
        plain, far, both = (plugin(x_NF + a, y_MF + b, one, one) for a, b in ((0.0, 0.0), (30.0, 0.0), (30.0, 30.0)))
        assert all(far[name] > plain[name] for name in plain)
        close([both[name] for name in plain], [*plain.values()])

    @law
    @given(data=st.data(), seed=seeds)
    def test_equal_rows(self, loss: Drawable[SampleLoss], data: st.DataObject, seed: int) -> None:
        """Rows that are all equal, or drawn twice, give finite values and gradients."""
        plugin = drawn(data, loss)
        rows = max(self.rows, plugin.enough())
        one = torch.zeros(rows, dtype=torch.long)
        same_MF = randn(seed, 1, self.width).repeat(rows, 1)
        twice_NF = randn(seed + 1, rows // 2 + 1, self.width).repeat(2, 1)[:rows]
        for x_NF, y_MF in ((twice_NF, same_MF), (same_MF, same_MF), (same_MF, twice_NF)):
            assert all(torch.isfinite(x).all() for x in self.case(x_NF, y_MF, one, one).outcome(plugin))

    @law
    @given(data=st.data(), seed=seeds)
    def test_shapes(self, loss: Drawable[SampleLoss], data: st.DataObject, seed: int) -> None:
        """Arrays that do not fit each other are refused with a sentence, not broadcast."""
        plugin = drawn(data, loss)
        x_NF, one = randn(seed, 6, self.width), torch.zeros(6, dtype=torch.long)
        with pytest.raises(ValueError, match=r"\("):
            plugin(x_NF, x_NF[:, :1], one, one)
        with pytest.raises(ValueError, match=r"\("):
            plugin(x_NF, x_NF, one, one[:1])


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


LAWS: dict[str, type] = {
    "values": LossLaws,
    "scores": ScoreLossLaws,
    "rankings": RankingLossLaws,
    "views": ViewLossLaws,
    "samples": SampleLossLaws,
    "features": FeatureLossLaws,
    "weights": WeightLossLaws,
}
"""the laws of a loss, by what it reads"""
