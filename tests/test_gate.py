"""Gates."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from core.testing.draws import close, law, randn, seeds, started
from core.testing.gate import GateLaws
from core.train.streams import Streams
from plugins.gates.elementwise import Elementwise
from plugins.gates.headwise import Headwise
from plugins.gates.none import NoGate

BIASES = st.floats(-3, 3)


@pytest.mark.parametrize(
    "gate", [NoGate(), st.builds(Headwise, bias=BIASES), st.builds(Elementwise, bias=BIASES)], ids=repr
)
class TestGates(GateLaws):
    """The laws of gates."""


@law
@given(seed=seeds)
def test_elementwise_with_equal_channels_is_headwise(seed: int) -> None:
    """An elementwise gate whose rows agree inside each head is the headwise gate."""
    head, channel = started(Headwise().build(6, 3, 4), seed), started(Elementwise().build(6, 3, 4), seed)
    with torch.no_grad():
        channel.weight.copy_(head.weight.repeat_interleave(4, dim=0))
        channel.bias.copy_(head.bias.repeat_interleave(4))
    x_BQD, out_BHQV = randn(seed, 2, 5, 6), randn(seed + 1, 2, 3, 5, 4)
    close([channel(out_BHQV, x_BQD)], [head(out_BHQV, x_BQD)])


@pytest.mark.parametrize("gate", [Headwise, Elementwise])
def test_a_large_bias_opens_and_a_low_one_shuts(gate: type) -> None:
    """The initial bias sets where the gate starts: nearly open, half open, nearly shut."""
    x_BQD, out_BHQV = randn(0, 2, 5, 6), randn(1, 2, 3, 5, 4)
    for bias, scale in ((40.0, 1.0), (-40.0, 0.0)):
        layer = started(gate(bias=bias).build(6, 3, 4), 0)
        close([layer(out_BHQV, x_BQD)], [scale * out_BHQV])
    half = started(gate().build(6, 3, 4), 0)
    close([half(out_BHQV, torch.zeros_like(x_BQD))], [0.5 * out_BHQV])


@pytest.mark.parametrize(("gate", "rows"), [(Headwise(bias=2.0), 3), (Elementwise(bias=2.0), 12)], ids=repr)
def test_parameters(gate: Headwise | Elementwise, rows: int) -> None:
    """A gate owns one row a score, weights that differ by seed and biases that start where they are told."""
    layers = [gate.build(6, 3, 4) for _ in range(2)]
    for seed, layer in enumerate(layers):
        Streams(seed).initialise(layer)
        assert layer.weight.shape == (rows, 6)
        assert torch.equal(layer.bias, torch.full((rows,), 2.0))
    assert not torch.equal(layers[0].weight, layers[1].weight)
