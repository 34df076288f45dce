"""What every flow path must do. B items.

@pytest.mark.parametrize("path", [CondOt(), Cosine(exponent=2.0)], ids=str)
class TestPaths(PathLaws): ...
"""

from __future__ import annotations

import itertools
from typing import get_args

import pytest
import torch
from torch import Tensor

from core.kinds.path import FlowPath, Target
from core.params import params


@params
class Straight(FlowPath):
    """alpha = t, sigma = 1 - t, in so many words: the path that solvers are judged on."""

    def alpha(self, t: Tensor) -> Tensor:
        return t.clone()

    def sigma(self, t: Tensor) -> Tensor:
        return 1 - t

    def rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.full_like(t, 1.0), torch.full_like(t, -1.0)


class PathLaws:
    """Laws of `core.kinds.path.FlowPath`; parametrise a subclass over `path`."""

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
    def test_ends(self, path: FlowPath, dtype: torch.dtype) -> None:
        """The path starts in the noise and ends in the data, to the last bit."""
        x0, x1 = _ends(dtype)
        assert torch.equal(path.point(x0, x1, x0.new_zeros(len(x0))).x_t, x0)
        assert torch.equal(path.point(x0, x1, x0.new_ones(len(x0))).x_t, x1)
        t_B = torch.linspace(0, 1, len(x0), dtype=x0.dtype)
        assert all(torch.equal(a, b) for a, b in zip(path.shares(t_B), (path.alpha(t_B), path.sigma(t_B)), strict=True))

    def test_monotone(self, path: FlowPath) -> None:
        """Data come in and noise goes out strictly."""
        t_B = torch.linspace(0, 1, 401, dtype=torch.float64)
        assert (path.alpha(t_B).diff() > 0).all()
        assert (path.sigma(t_B).diff() < 0).all()

    def test_velocity(self, path: FlowPath) -> None:
        """The velocity is the finite difference of the point with both ends held."""
        x0, x1 = _ends(torch.float64)
        t_B, h = torch.linspace(0.02, 0.98, len(x0), dtype=torch.float64), 1e-5
        slope = (path.point(x0, x1, t_B + h).x_t - path.point(x0, x1, t_B - h).x_t) / (2 * h)
        torch.testing.assert_close(path.point(x0, x1, t_B).velocity, slope, rtol=1e-6, atol=1e-6)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
    def test_finite(self, path: FlowPath, dtype: torch.dtype) -> None:
        """Velocities are finite up to and at both ends, also where an item's noise or data are 0."""
        step = torch.finfo(dtype).eps / 2
        t_B = torch.tensor([0.0, step, 1e-3, 0.5, 0.999, 1 - step, 1.0], dtype=dtype)
        assert all(torch.isfinite(rate).all() for rate in path.rates(t_B))
        zero = t_B.new_zeros(len(t_B), 2)
        assert torch.equal(path.point(zero, zero, t_B).velocity, zero)

    @pytest.mark.parametrize(("frm", "to"), list(itertools.permutations(get_args(Target), 2)))
    def test_convert(self, path: FlowPath, frm: Target, to: Target) -> None:
        """Inside the path the true velocity, noise and data turn into each other, there and back."""
        x0, x1 = _ends(torch.float64)
        t_B = torch.linspace(0.05, 0.95, len(x0), dtype=torch.float64)
        point = path.point(x0, x1, t_B)
        true: dict[Target, Tensor] = {"velocity": point.velocity, "noise": x0, "data": x1}
        there = path.convert(point.x_t, t_B, true[frm], frm, to)
        torch.testing.assert_close(there, true[to], rtol=1e-8, atol=1e-8)
        torch.testing.assert_close(path.convert(point.x_t, t_B, there, to, frm), true[frm], rtol=1e-8, atol=1e-8)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
    def test_dtype_and_shape(self, path: FlowPath, dtype: torch.dtype) -> None:
        """Points keep the shape and the dtype they are given, and a batch is its items one by one."""
        x0, x1 = _ends(dtype)
        t_B = torch.linspace(0, 1, len(x0), dtype=dtype)
        point = path.point(x0, x1, t_B)
        assert point.x_t.shape == point.velocity.shape == x1.shape
        assert point.x_t.dtype == point.velocity.dtype == dtype
        for i in range(len(x0)):
            alone = path.point(x0[i : i + 1], x1[i : i + 1], t_B[i : i + 1])
            torch.testing.assert_close(alone.x_t[0], point.x_t[i])
            torch.testing.assert_close(alone.velocity[0], point.velocity[i])


def _ends(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x0, x1 = torch.randn(2, 9, 4, 3, generator=generator, dtype=torch.float64).to(dtype)
    return x0, x1
