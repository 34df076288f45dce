"""What the laws of every loss that does not compare values share: how one is called, and what all families obey."""

from __future__ import annotations

import io
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, TypeAlias

import attrs
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from core.kinds.loss import Loss, LossFacts
from core.testing.draws import Drawable, close, coins, drawn, seeds
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
