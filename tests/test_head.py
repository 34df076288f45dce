"""Heads."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from core.kinds import Head
from core.testing.draws import close, gradients, law, randn, seeds, started
from core.testing.head import HeadLaws
from plugins.heads.fourier_kan import FourierKan, FourierKanHead
from plugins.heads.linear import Linear
from plugins.heads.mlp import Mlp

mlps = st.builds(
    Mlp,
    hidden=st.floats(2.0, 4.0),
    layers=st.integers(1, 3),
    activation=st.sampled_from(["gelu", "silu"]),
    dropout=st.sampled_from([0.0, 0.5]),
)
kans = st.builds(FourierKan, harmonics=st.integers(1, 6), hidden=st.integers(1, 7))


@pytest.mark.parametrize("head", [Linear(), mlps, kans], ids=["linear", "mlp", "fourier_kan"])
class TestHeads(HeadLaws):
    """The laws of heads."""


def by_hand(module: FourierKanHead, x_BD: Tensor) -> Tensor:
    """The sum over inputs and harmonics, one term at a time."""
    series = module.series
    t_BD = math.pi * torch.tanh(x_BD)
    columns = []
    for i, bias in enumerate(series.bias_F):
        h_B = bias.expand(len(x_BD))
        for j in range(x_BD.shape[1]):
            for k in range(1, series.harmonics + 1):
                h_B = h_B + series.cosine_FDK[i, j, k - 1] * torch.cos(k * t_BD[:, j])
                h_B = h_B + series.sine_FDK[i, j, k - 1] * torch.sin(k * t_BD[:, j])
        columns.append(h_B * torch.sigmoid(h_B))
    return torch.stack(columns, 1) @ module.map.weight.T + module.map.bias


@law
@given(head=kans, items=st.integers(1, 4), width=st.integers(1, 4), seed=seeds)
def test_fourier_kan_is_its_formula(head: FourierKan, items: int, width: int, seed: int) -> None:
    """Values and gradients are those of the double sum."""
    module, x_BD = started(head.build(width, 2), seed), randn(seed, items, width).requires_grad_()
    inputs = [x_BD, *module.parameters()]
    fast, slow = module(x_BD), by_hand(module, x_BD)
    close([fast, *gradients(fast, inputs)], [slow, *gradients(slow, inputs)])


@pytest.mark.parametrize(
    ("head", "count"),
    [
        (Linear(), 16 * 3 + 3),
        (Mlp(hidden=2.0, layers=2), 16 * 32 + 32 + 32 * 32 + 32 + 32 * 3 + 3),
        (FourierKan(harmonics=5, hidden=7), 2 * 16 * 5 * 7 + 7 + 7 * 3 + 3),
    ],
    ids=repr,
)
def test_parameters(head: Head, count: int) -> None:
    """Sizes are as documented."""
    assert sum(p.numel() for p in head.build(16, 3).parameters()) == count


def test_fourier_kan_starts_with_the_promised_spread() -> None:
    """Before SiLU the mean square of a hidden channel over random phases is 2."""
    module = started(FourierKan(hidden=256).build(64, 1), 0)
    turns_BD = 2 * torch.rand(512, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64) - 1
    hidden_BF = module.series(torch.atanh(turns_BD))
    assert float(hidden_BF.detach().square().mean()) == pytest.approx(2.0, rel=0.05)
