"""What every loss must do. B sets, N items, F features.

@pytest.mark.parametrize("loss", [Mse(), DistanceMse()], ids=str)
class TestLosses(LossLaws): ...
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from core.kinds.loss import ValueLoss

ANYTHING = (0.0, 1e30, float("inf"), float("nan"))
"""what padding may hold"""

law = settings(deadline=None, max_examples=14, suppress_health_check=[HealthCheck.differing_executors])
sizes = st.integers(1, 7)
seeds = st.integers(0, 2**32)


class LossLaws:
    """Laws of `core.kinds.loss.ValueLoss` for losses of real-valued arrays; parametrise a subclass over `loss`."""

    @law
    @given(sets=sizes, items=sizes, features=sizes, seed=seeds)
    def test_scalars(self, loss: ValueLoss, sets: int, items: int, features: int, seed: int) -> None:
        """Every term is a named, finite scalar of at least 0, in the dtype of the prediction."""
        predicted, target, real = draw(sets, items, features, seed)
        terms = loss(predicted, target, real)
        assert terms
        for name, value in terms.items():
            assert name
            assert value.shape == ()
            assert value.dtype == predicted.dtype
            assert torch.isfinite(value)
            assert value >= 0

    @law
    @given(sets=sizes, items=sizes, features=sizes, seed=seeds)
    def test_agreement(self, loss: ValueLoss, sets: int, items: int, features: int, seed: int) -> None:
        """Where prediction and target agree, every term is 0."""
        _, target, real = draw(sets, items, features, seed)
        assert all(value == 0 for value in loss(target, target, real).values())

    @pytest.mark.parametrize("content", ANYTHING, ids=str)
    @law
    @given(sets=sizes, items=sizes, features=sizes, extra=sizes, seed=seeds)
    def test_padding(
        self, loss: ValueLoss, content: float, sets: int, items: int, features: int, extra: int, seed: int
    ) -> None:
        """Padding, whatever it holds, changes neither values nor gradients, and its own gradient is exactly 0."""
        predicted, target, real = draw(sets, items, features, seed)
        filling = torch.full((sets, extra, features), content, dtype=predicted.dtype)
        hidden = torch.zeros(sets, extra, dtype=torch.bool)
        padded = torch.cat([predicted.where(real[..., None], content), filling], 1)
        terms, grad = differentiate(loss, predicted, target, real)
        same, wide = differentiate(loss, padded, torch.cat([target, filling], 1), torch.cat([real, hidden], 1))
        torch.testing.assert_close(same, terms)
        torch.testing.assert_close(wide[:, :items], grad)
        assert (wide[~torch.cat([real, hidden], 1)] == 0).all()

    @law
    @given(sets=st.integers(2, 5), items=sizes, features=sizes, seed=seeds)
    def test_neighbours(self, loss: ValueLoss, sets: int, items: int, features: int, seed: int) -> None:
        """A batch scores the mean of its sets scored alone, in values and in gradients."""
        predicted, target, real = draw(sets, items, features, seed)
        terms, grad = differentiate(loss, predicted, target, real)
        alone = [differentiate(loss, predicted[b : b + 1], target[b : b + 1], real[b : b + 1]) for b in range(sets)]
        for name, value in terms.items():
            torch.testing.assert_close(value, torch.stack([one[name] for one, _ in alone]).mean())
        torch.testing.assert_close(grad, torch.cat([one for _, one in alone]) / sets)

    @law
    @given(sets=sizes, items=sizes, features=sizes, seed=seeds)
    def test_gradient(self, loss: ValueLoss, sets: int, items: int, features: int, seed: int) -> None:
        """The gradient of the prediction agrees with finite differences."""
        predicted, target, real = draw(sets, items, features, seed)

        def total(values: Tensor) -> Tensor:
            return torch.stack(list(loss(values, target, real).values())).sum()

        assert torch.autograd.gradcheck(total, [predicted.requires_grad_()])

    @law
    @given(sets=sizes, items=sizes, axes=st.integers(1, 4), seed=seeds)
    def test_pose(self, loss: ValueLoss, sets: int, items: int, axes: int, seed: int) -> None:
        """A loss that calls itself free of the pose is the same for a prediction turned, mirrored and shifted."""
        if not loss.pose_free:
            return
        predicted, target, real = draw(sets, items, axes, seed)
        generator = torch.Generator().manual_seed(seed)
        turn = torch.linalg.qr(torch.randn(axes, axes, dtype=torch.float64, generator=generator))[0]
        moved = predicted @ turn + torch.randn(sets, 1, axes, dtype=torch.float64, generator=generator)
        for name, value in loss(moved, target, real).items():
            torch.testing.assert_close(value, loss(predicted, target, real)[name])

    def test_meta(self, loss: ValueLoss) -> None:
        """It runs on the meta device, forward and backward, for shapes and FLOPs."""
        predicted = torch.empty(2, 5, 3, device="meta", requires_grad=True)
        terms = loss(predicted, torch.empty_like(predicted), torch.empty(2, 5, dtype=torch.bool, device="meta"))
        total = torch.stack(list(terms.values())).sum()
        assert total.requires_grad, "no gradient reaches the prediction: the terms are detached from it"
        total.backward()
        assert predicted.grad is not None
        assert predicted.grad.shape == predicted.shape


def draw(sets: int, items: int, features: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Random float64 prediction and target (B, N, F) and real items (B, N), among them sets without any."""
    generator = torch.Generator().manual_seed(seed)
    predicted, target = torch.randn(2, sets, items, features, dtype=torch.float64, generator=generator)
    return predicted, target, torch.rand(sets, items, generator=generator) < 0.7


def differentiate(loss: ValueLoss, predicted: Tensor, target: Tensor, real: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """Terms without graph, and the gradient of their sum with respect to the prediction."""
    predicted = predicted.detach().requires_grad_()
    terms = loss(predicted, target, real)
    total = torch.stack(list(terms.values())).sum()
    assert total.requires_grad, "no gradient reaches the prediction: the terms are detached from it"
    (grad,) = torch.autograd.grad(total, predicted)
    return {name: value.detach() for name, value in terms.items()}, grad
