"""Losses: the laws of the kind, and each loss against its formula written out."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from core.testing.loss import LossLaws, differentiate, draw, law, seeds, sizes
from plugins.losses.distance_mse import DistanceMse
from plugins.losses.mse import Mse


@pytest.mark.parametrize("loss", [Mse(), DistanceMse(), DistanceMse(rows=3)], ids=str)
class TestLosses(LossLaws):
    """Every built-in loss obeys the laws."""


def naive_mse(predicted: Tensor, target: Tensor, real: Tensor) -> Tensor:
    """The formula, set by set."""
    shares = [
        (p[r] - t[r]).square().mean() if r.any() else p.sum() * 0
        for p, t, r in zip(predicted, target, real, strict=True)
    ]
    return torch.stack(shares).mean()


def naive_distance_mse(predicted: Tensor, target: Tensor, real: Tensor) -> Tensor:
    """The formula, set by set, with one whole matrix of differences."""

    def matrix(x: Tensor) -> Tensor:
        squared = (x[:, None] - x[None, :]).square().sum(2)
        apart = squared > 0
        return torch.where(apart, torch.where(apart, squared, 1.0).sqrt(), 0.0)

    shares = [
        (matrix(p[r]) - matrix(t[r])).square().mean() if r.any() else p.sum() * 0
        for p, t, r in zip(predicted, target, real, strict=True)
    ]
    return torch.stack(shares).mean()


NAIVE = {"mse": (Mse(), naive_mse), "distance_mse": (DistanceMse(rows=4), naive_distance_mse)}


@pytest.mark.parametrize("name", NAIVE)
@law
@given(sets=sizes, items=st.integers(1, 19), features=st.integers(1, 4), seed=seeds)
def test_formula(name: str, sets: int, items: int, features: int, seed: int) -> None:
    """Values and gradients in float64 are those of the formula written out."""
    loss, naive = NAIVE[name]
    predicted, target, real = draw(sets, items, features, seed)
    terms, grad = differentiate(loss, predicted, target, real)
    predicted.requires_grad_()
    expected = naive(predicted, target, real)
    torch.testing.assert_close(terms[name], expected.detach(), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(grad, torch.autograd.grad(expected, predicted)[0], rtol=1e-10, atol=1e-12)


def test_gradcheck() -> None:
    """The hand-written gradient of the distance loss is the numerical one, whatever the loss is scaled by."""
    predicted, target, real = draw(3, 6, 2, 1)
    predicted.requires_grad_()
    assert torch.autograd.gradcheck(lambda p: DistanceMse(rows=2)(p, target, real)["distance_mse"] * 3.7, predicted)


@law
@given(features=st.integers(1, 4), seed=seeds)
def test_pose(features: int, seed: int) -> None:
    """Turning, mirroring and shifting the prediction leaves the distance loss as it is, to 1e-5 in float32."""
    generator = torch.Generator().manual_seed(seed)
    # On a grid of 2^-10 a shift by 10,000 is exact in float32, so any change is the loss's own error.
    predicted, target = (torch.randint(-3000, 3000, (2, 1, 70, features), generator=generator) / 1024).float()
    turn = torch.linalg.qr(torch.randn(features, features, dtype=torch.float64, generator=generator))[0]
    real = torch.ones(1, 70, dtype=torch.bool)
    terms, grad = differentiate(DistanceMse(), predicted, target, real)
    moved, moved_grad = differentiate(DistanceMse(), predicted + 10_000, target - 10_000, real)
    torch.testing.assert_close(moved, terms, rtol=1e-5, atol=0)
    torch.testing.assert_close(moved_grad, grad, rtol=1e-5, atol=1e-7)
    turned, turned_grad = differentiate(DistanceMse(), (predicted.double() @ turn).float(), target, real)
    torch.testing.assert_close(turned, terms, rtol=1e-5, atol=0)
    torch.testing.assert_close(turned_grad.double() @ turn.T, grad.double(), rtol=1e-4, atol=1e-6)
    same = DistanceMse()((target.double() @ turn).float(), target, real)["distance_mse"]
    assert same < 1e-10


def test_coincident() -> None:
    """Where predicted items coincide the gradient is finite: the pair itself pulls nowhere, the others as they do."""
    predicted = torch.tensor([[[1.0, 1.0], [1.0, 1.0], [4.0, 5.0]]])
    target = torch.tensor([[[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]]])
    real = torch.ones(1, 3, dtype=torch.bool)
    _, grad = differentiate(DistanceMse(), predicted, target, real)
    # Only the third item is apart: distances 5 and 5 against 4 and 5, so the first pair alone pulls along (3, 4) / 5.
    pull = 4 / 9 * (5 - 4) * torch.tensor([3.0, 4.0]) / 5
    torch.testing.assert_close(grad, torch.stack([-pull, torch.zeros(2), pull])[None])
    _, grad = differentiate(DistanceMse(), torch.ones(1, 3, 2), target, real)
    assert (grad == 0).all()


@pytest.mark.parametrize("loss", [Mse(), DistanceMse()], ids=str)
def test_half(loss: Mse | DistanceMse) -> None:
    """Half-precision predictions, inside autocast, are compared in float32 and get gradients in their own dtype."""
    predicted, target, real = draw(2, 40, 3, 5)
    rounded = predicted.bfloat16()
    exact, exact_grad = differentiate(loss, rounded.float(), target.float(), real)
    with torch.autocast("cpu", torch.bfloat16):
        terms, grad = differentiate(loss, rounded, target.float(), real)
    assert grad.dtype == torch.bfloat16
    torch.testing.assert_close(terms, exact, rtol=1e-6, atol=0)
    torch.testing.assert_close(grad, exact_grad.bfloat16(), rtol=0, atol=0)


def test_chunks() -> None:
    """The number of rows held at a time changes the distance loss by rounding alone."""
    predicted, target, real = draw(3, 50, 2, 9)
    once, once_grad = differentiate(DistanceMse(rows=1000), predicted, target, real)
    for rows in (1, 7, 64):
        terms, grad = differentiate(DistanceMse(rows=rows), predicted, target, real)
        torch.testing.assert_close(terms, once, rtol=1e-12, atol=0)
        torch.testing.assert_close(grad, once_grad, rtol=1e-12, atol=1e-15)


def test_linear_memory() -> None:
    """No tensor of the size of the distance matrix is made: the largest holds rows x items entries."""

    class Largest(torch.utils._python_dispatch.TorchDispatchMode):
        entries = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            out = func(*args, **(kwargs or {}))
            if isinstance(out, Tensor):
                Largest.entries = max(Largest.entries, out.numel())
            return out

    predicted = torch.randn(2, 400, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    with Largest():
        DistanceMse(rows=8)(predicted, predicted.detach() * 2, torch.ones(2, 400, dtype=torch.bool))[
            "distance_mse"
        ].backward()
    assert Largest.entries == 8 * 400


def test_constant_target() -> None:
    """The gradient of the distance loss stops at the target and is not differentiated again."""
    predicted, target, real = draw(1, 5, 2, 0)
    predicted.requires_grad_()
    target.requires_grad_()
    value = DistanceMse()(predicted, target, real)["distance_mse"]
    assert torch.autograd.grad(value, target, allow_unused=True, retain_graph=True) == (None,)
    (grad,) = torch.autograd.grad(value, predicted, create_graph=True, retain_graph=True)
    assert not grad.requires_grad
    (grad,) = torch.autograd.grad(value.square(), predicted, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


@pytest.mark.parametrize("loss", [Mse(), DistanceMse()], ids=str)
def test_shapes(loss: Mse | DistanceMse) -> None:
    """Shapes that would broadcast are refused with both named."""
    real = torch.ones(2, 5, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"\(2, 5, 1\) and target is \(2, 5, 3\)"):
        loss(torch.zeros(2, 5, 1), torch.zeros(2, 5, 3), real)
