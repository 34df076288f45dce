"""Gates."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from core.kinds import Gate
from core.nn.auxiliary import listen
from core.nn.fusion import Fusion
from core.testing.draws import built, close, law, randn, seeds, started
from core.testing.gate import GateLaws
from core.train.streams import Streams
from plugins.gates._spectral import spectral_norm
from plugins.gates.dual import Dual
from plugins.gates.elementwise import Elementwise
from plugins.gates.headwise import Headwise
from plugins.gates.none import NoGate
from plugins.gates.sigmoid import Sigmoid
from plugins.gates.tempered import Tempered

GRAINS = st.sampled_from(["token", "head", "channel"])
COMMON = {
    "bias": st.floats(-3, 3),
    "spectral": st.sampled_from(["none", "penalty", "projection"]),
    "spectral_bound": st.floats(0.1, 3.0),
}
SIGMOIDS = built(Sigmoid, per=GRAINS, weights=st.sampled_from(["linear", "zero"]), **COMMON)
TEMPERED = built(
    Tempered,
    per=GRAINS,
    norm=st.booleans(),
    delta=st.floats(0.0, 0.4),
    temperature=st.floats(1.0, 3.0),
    coolest=st.floats(0.1, 0.9),
    **COMMON,
)
DUALS = st.builds(Dual, inner=st.one_of(st.just(NoGate()), SIGMOIDS, TEMPERED))
FUSING = [Dual(inner=Tempered()), Dual(inner=Sigmoid(per="head")), Dual(inner=NoGate())]


@pytest.mark.parametrize(
    "gate",
    [NoGate(), built(Headwise, **COMMON), built(Elementwise, **COMMON), SIGMOIDS, TEMPERED, DUALS],
    ids=["none", "headwise", "elementwise", "sigmoid", "tempered", "dual"],
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


@pytest.mark.parametrize("plain", [Headwise, Elementwise])
def test_sigmoid_is_headwise_and_elementwise_at_their_grain(plain: type) -> None:
    """The plain gate per head and per channel is the gate of that name, from the same seed."""
    per = {Headwise: "head", Elementwise: "channel"}[plain]
    x_BQD, out_BHQV = randn(0, 2, 5, 6), randn(1, 2, 3, 5, 4)
    one, other = (started(gate.build(6, 3, 4), 3) for gate in (plain(bias=1.0), Sigmoid(per=per, bias=1.0)))
    assert torch.equal(one(out_BHQV, x_BQD), other(out_BHQV, x_BQD))


def test_a_gate_can_start_near_identity() -> None:
    """Weights that start at zero leave the bias alone to decide, the same for every token."""
    layer = started(Sigmoid(bias=6.0, weights="zero").build(6, 3, 4), 0)
    close([layer.scores(randn(0, 2, 5, 6))], [torch.full((2, 5, 3), 1 / (1 + math.exp(-6.0))).double()], 1e-7)


@law
@given(seed=seeds, size=st.sampled_from([1.0, 1e3, 1e6, 1e30]), delta=st.floats(0.0, 0.49), norm=st.booleans())
def test_tempered_stays_inside_its_floor(seed: int, size: float, delta: float, norm: bool) -> None:
    """delta < g < 1 - delta for any finite token and any weights, in single precision."""
    layer = started(Tempered(delta=delta, norm=norm).build(8, 2, 3), seed, torch.float32)
    with torch.no_grad():
        layer.weight.copy_(100 * randn(seed, *layer.weight.shape))
    scores = layer.scores(size * randn(seed + 1, 4, 7, 8, dtype=torch.float32)).double()
    assert (scores > delta).all()
    assert (scores < 1 - delta).all()


def test_tempered_starts_half_open_at_its_temperature() -> None:
    """At first every score is 0.5 and the temperature is what was asked for."""
    layer = started(Tempered(temperature=1.7, coolest=0.4).build(6, 3, 4), 0)
    close([layer.scores(randn(0, 2, 5, 6))], [torch.full((2, 5, 3, 4), 0.5).double()])
    assert float(0.4 + torch.nn.functional.softplus(layer.raw_temperature.detach())) == pytest.approx(1.7)


@law
@given(seed=seeds, delta=st.floats(0.0, 0.4), temperature=st.floats(0.6, 5.0))
def test_tempered_is_its_formula(seed: int, delta: float, temperature: float) -> None:
    """g = delta + (1 - 2 delta) sigmoid((W LN(x) + b) / tau), written out."""
    layer = started(Tempered(delta=delta, temperature=temperature, per="head").build(6, 3, 4), seed)
    with torch.no_grad():
        layer.weight.copy_(randn(seed, 3, 6))
        layer.bias.copy_(randn(seed + 1, 3))
    x_BQD = randn(seed + 2, 2, 5, 6)
    centred = x_BQD - x_BQD.mean(-1, keepdim=True)
    normed = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    logits = (normed @ layer.weight.T + layer.bias) / temperature
    close([layer.scores(x_BQD)], [delta + (1 - 2 * delta) / (1 + (-logits).exp())], 1e-6)


def test_a_temperature_below_the_coolest_is_refused() -> None:
    """Both numbers are named, and what to do."""
    with pytest.raises(ValueError, match=r"more than coolest, got 0.5 and 0.5; raise temperature"):
        Tempered(temperature=0.5)


@pytest.mark.parametrize("gate", FUSING, ids=repr)
@law
@given(seed=seeds, size=st.sampled_from([1.0, 1e6]), pooled=st.booleans())
def test_fusion_is_convex(gate: Gate, seed: int, size: float, pooled: bool) -> None:
    """min(a, b) <= y <= max(a, b) in every channel, and y = a where a = b, up to rounding."""
    shape = (3, 4) if pooled else (2, 3, 4)
    fusion = started(Fusion(gate, 4), seed, torch.float32)
    with torch.no_grad():
        for i, parameter in enumerate(fusion.parameters()):
            parameter.add_(randn(seed + 3 + i, *parameter.shape))
    a, b = (size * randn(seed + i, *shape, dtype=torch.float32) for i in (1, 2))
    slack = 1e-6 * torch.maximum(a.abs(), b.abs())
    y = fusion(a, b)
    assert y.shape == shape
    assert (y >= torch.minimum(a, b) - slack).all()
    assert (y <= torch.maximum(a, b) + slack).all()
    torch.testing.assert_close(fusion(a, a), a, rtol=1e-6, atol=0.0)


@law
@given(seed=seeds)
def test_fusion_is_written_out_for_every_gate(seed: int) -> None:
    """y = g1 a + g2 b, values and gradients; without a gate the branches are added up."""
    a, b = randn(seed, 2, 3, 4).requires_grad_(), randn(seed + 1, 2, 3, 4).requires_grad_()
    for gate in (Dual(inner=Sigmoid(per="channel")), Elementwise(), Headwise(), NoGate()):
        fusion = started(Fusion(gate, 4), seed)
        scores = fusion.gate.scores(torch.cat([a, b], -1))
        if scores is None:
            scores = torch.ones(2, 3, 2)
        g = scores if scores.ndim == 4 else scores[..., None]
        wanted = g[:, :, 0] * a + g[:, :, 1] * b
        found = fusion(a, b)
        close([found], [wanted])
        inputs = [a, b, *fusion.parameters()]
        close(_slopes(found, inputs), _slopes(wanted, inputs))


def test_dual_halves_sum_to_one() -> None:
    """The scores of the second half of the heads are what those of the first leave."""
    layer = started(Dual(inner=Headwise(bias=1.0)).build(6, 4, 3), 0)
    scores = layer.scores(randn(0, 2, 5, 6))
    close([scores[:, :, :2] + scores[:, :, 2:]], [torch.ones(2, 5, 2).double()])


def test_dual_and_fusion_name_what_does_not_fit() -> None:
    """An odd number of heads and branches of two shapes are refused in words."""
    with pytest.raises(ValueError, match=r"even number of them, got 3"):
        Dual(inner=Tempered()).build(6, 3, 2)
    with pytest.raises(ValueError, match=r"one shape, got \[2, 3, 4\] and \[2, 1, 4\]"):
        Fusion(Dual(inner=Tempered()), 4)(torch.zeros(2, 3, 4), torch.zeros(2, 1, 4))


@law
@given(seed=seeds, rows=st.integers(1, 40), width=st.integers(1, 40), size=st.sampled_from([1e-3, 1.0, 1e3]))
def test_spectral_norm(seed: int, rows: int, width: int, size: float) -> None:
    """Power iteration finds the largest singular value to 1 %, never more than it, and the same one again."""
    weight = size * randn(seed, rows, width)
    found, exact = spectral_norm(weight), torch.linalg.matrix_norm(weight, 2)
    assert float(found) == float(spectral_norm(weight.clone()))
    assert float(found) <= float(exact) * (1 + 1e-9)
    assert float(found) >= 0.99 * float(exact)


def test_spectral_norm_has_the_gradient_of_a_singular_value() -> None:
    """d sigma_1 / dW is the outer product of the first singular vectors; zero and finite for a matrix of zeros."""
    weight = torch.diag(torch.tensor([3.0, 1.0, 0.5]).double()) @ randn(0, 3, 5)
    weight.requires_grad_()
    u, _, vh = torch.linalg.svd(weight.detach(), full_matrices=False)
    (slope,) = torch.autograd.grad(spectral_norm(weight), weight)
    torch.testing.assert_close(slope, torch.outer(u[:, 0], vh[0]), rtol=1e-4, atol=1e-4)
    nothing = torch.zeros(3, 5, requires_grad=True)
    (slope,) = torch.autograd.grad(spectral_norm(nothing), nothing)
    assert torch.equal(slope, torch.zeros(3, 5))


@law
@given(seed=seeds, bound=st.floats(0.05, 4.0))
def test_projection_bounds_the_weights_in_use(seed: int, bound: float) -> None:
    """Projected weights have a norm within 1 % of the bound or below it; those below it are not touched."""
    gate = Headwise(spectral="projection", spectral_bound=bound)
    layer = started(gate.build(6, 3, 4), seed)
    with torch.no_grad():
        layer.weight.copy_(randn(seed, 3, 6))
    used = layer.limit.limited(layer.weight).detach()
    exact = float(torch.linalg.matrix_norm(layer.weight.detach(), 2))
    assert float(torch.linalg.matrix_norm(used, 2)) <= 1.01 * bound
    assert exact > bound or torch.equal(used, layer.weight)
    plain = started(Headwise().build(6, 3, 4), seed)
    with torch.no_grad():
        plain.weight.copy_(used)
    close([layer.scores(randn(1, 2, 5, 6))], [plain.scores(randn(1, 2, 5, 6))])


@law
@given(seed=seeds, bound=st.floats(0.05, 4.0), weight=st.floats(0.0, 2.0, exclude_min=True))
def test_penalty_is_told_to_whoever_listens(seed: int, bound: float, weight: float) -> None:
    """weight * max(0, sigma_1 - bound)^2, in the forward pass and with a gradient; outputs stay those of no limit."""
    layers = [
        started(gate.build(6, 3, 4), seed)
        for gate in (Headwise(spectral="penalty", spectral_bound=bound, spectral_weight=weight), Headwise())
    ]
    x_BQD, out_BHQV = randn(seed, 2, 5, 6), randn(seed + 1, 2, 3, 5, 4)
    with listen() as told:
        outs = [layer(out_BHQV, x_BQD) for layer in layers]
    assert torch.equal(*outs)
    assert told.keys() == {"spectral"}
    exact = float(torch.linalg.matrix_norm(layers[0].weight.detach(), 2))
    assert float(told["spectral"].detach()) == pytest.approx(weight * max(0.0, exact - bound) ** 2, rel=0.05, abs=1e-9)
    (slope,) = torch.autograd.grad(told["spectral"], layers[0].weight)
    assert torch.isfinite(slope).all()


def _slopes(out: Tensor, inputs: list[Tensor]) -> list[Tensor]:
    weights = torch.linspace(0.5, 1.5, out.numel(), dtype=out.dtype).view_as(out)
    return list(torch.autograd.grad((out * weights).sum(), inputs, retain_graph=True, allow_unused=True))
