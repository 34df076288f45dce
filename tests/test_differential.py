"""Differential attention, and anchors and positions in attention over pairs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from core.kinds import Attention
from core.kinds.mask import Layout
from core.testing.attention import AttentionLaws
from core.testing.draws import close, coins, gradients, law, randn, seeds, started
from core.testing.mask import Table
from plugins.anchors.attention import AttentionAnchors
from plugins.anchors.projection import ProjectionAnchors
from plugins.attention.differential import Differential
from plugins.attention.pairwise import Pairwise
from plugins.gates.headwise import Headwise
from plugins.gates.none import NoGate
from plugins.kernels import auto
from plugins.kernels.auto import Auto
from plugins.kernels.reference import Reference
from plugins.kernels.sdpa import Sdpa
from plugins.kernels.sdpa_masked import SdpaMasked
from plugins.masks.full import Full
from plugins.masks.window import Window
from plugins.positions.none import NoPosition
from plugins.positions.rope import Rope
from plugins.sparsifiers.softmax import Softmax
from plugins.sparsifiers.temperature import Temperature
from plugins.sparsifiers.topk import TopK


@pytest.fixture(autouse=True)
def _kernels(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(auto, "candidates", lambda: ((Sdpa(), SdpaMasked(), Reference()), ()))
    auto._choose.cache_clear()
    yield
    auto._choose.cache_clear()


def made(cls: type[Attention], **given: object) -> Attention:
    """A small attention over pairs that differs from the plain one in what is given."""
    plain = {"heads": 2, "mask": Full(), "sparsifier": Softmax(), "gate": NoGate(), "kernel": Auto()}
    return cls(**(plain | {"position": NoPosition(), "anchor": None} | given))


differentials = st.builds(
    made,
    st.just(Differential),
    heads=st.sampled_from([1, 2, 4]),
    initial=st.floats(0.0, 0.9),
    qk_norm=st.booleans(),
    dropout=st.sampled_from([0.0, 0.5]),
    gate=st.sampled_from([NoGate(), Headwise()]),
    sparsifier=st.sampled_from([Softmax(), TopK(k=2, temperature=Temperature())]),
    kernel=st.sampled_from([Auto(), Reference()]),
)


@pytest.mark.parametrize("attention", [differentials], ids=["differential"])
class TestDifferential(AttentionLaws):
    """The laws of attention."""


def explicit(layer: nn.Module, x_BQD: Tensor, context_BSD: Tensor, real_BS: Tensor) -> Tensor:
    """Two softmax maps, subtracted, in so many words."""
    plugin = layer.plugin

    def split(x: Tensor) -> Tensor:
        return x.unflatten(-1, (plugin.heads, -1)).transpose(1, 2)

    maps = []
    for query, key in ((layer.query_1, layer.key_1), (layer.query_2, layer.key_2)):
        logits = split(query(x_BQD)) @ split(key(context_BSD)).mT / (x_BQD.shape[-1] // plugin.heads) ** 0.5
        maps.append(torch.softmax(logits.masked_fill(~real_BS[:, None, None], -torch.inf), -1))
    a = layer.share
    share = (a.query_1 * a.key_1).sum().exp() - (a.query_2 * a.key_2).sum().exp() + plugin.initial
    read = (maps[0] - share * maps[1]) @ split(layer.value(context_BSD))
    normed = read / (read.square().mean(-1, keepdim=True) + 1e-6).sqrt() * layer.norm.weight
    return layer.output((normed * (1 - plugin.initial)).transpose(1, 2).flatten(2))


@law
@given(seed=seeds, queries=st.integers(1, 5), sources=st.integers(1, 5))
def test_two_calls_equal_two_explicit_maps(seed: int, queries: int, sources: int) -> None:
    """Values and gradients of the fused form are those of the subtracted matrices."""
    layer = started(made(Differential, initial=0.3).build(8), seed)
    real_BS = coins(seed, 2, sources)
    real_BS[:, 0] = True
    x_BQD, context_BSD = randn(seed + 1, 2, queries, 8), randn(seed + 2, 2, sources, 8)
    inputs = [x_BQD.requires_grad_(), context_BSD.requires_grad_(), *layer.parameters()]
    found = layer(x_BQD, context_BSD=context_BSD, real_BS=real_BS)
    wanted = explicit(layer, x_BQD, context_BSD, real_BS)
    close([found], [wanted])
    close(gradients(found, inputs), gradients(wanted, inputs))


@law
@given(seed=seeds, initial=st.floats(0.0, 0.9))
def test_rows_sum_to_what_is_left(seed: int, initial: float) -> None:
    """A row of A sums to 1 - lambda, and a hidden source has exactly no weight in it."""
    layer = started(made(Differential, initial=initial).build(8), seed)
    table = coins(seed, 4, 4)
    table[:, 0] = True
    weights_BHQS = layer.weights(randn(seed + 1, 2, 4, 8), Table(table))
    close([weights_BHQS.sum(-1)], [(1 - layer.share()).expand(2, 2, 4)])
    assert (weights_BHQS[..., ~table] == 0).all()


@law
@given(seed=seeds, count=st.integers(1, 3), sources=st.integers(1, 6), window=st.integers(0, 2))
@pytest.mark.parametrize("anchors", [AttentionAnchors, ProjectionAnchors])
@pytest.mark.parametrize("cls", [Pairwise, Differential])
def test_anchors_are_sources_that_every_query_sees(
    cls: type[Attention], anchors: type, seed: int, count: int, sources: int, window: int
) -> None:
    """With anchors a layer reads what it would read of a context that has them in front, whatever the mask hides."""
    plugin = made(cls, anchor=anchors(count=count), mask=Window(w=window), position=Rope())
    layer = started(plugin.build(8), seed)
    x_BSD = randn(seed + 1, 2, sources, 8)
    weights_BHQS = layer.weights(x_BSD)
    assert weights_BHQS.shape[-1] == count + sources
    assert (weights_BHQS[..., :count] != 0).all()
    near = (torch.arange(sources)[:, None] - torch.arange(sources)).abs() <= window
    assert (weights_BHQS[..., count:][..., ~near] == 0).all()
    assert (weights_BHQS[..., count:][..., near] != 0).all()
    real_BS = coins(seed + 2, 2, sources)
    real_BS[:, 0] = True
    clean = layer(x_BSD, real_BS=real_BS)
    dirty = layer(x_BSD.masked_fill(~real_BS[..., None], torch.nan), real_BS=real_BS)
    close([dirty[real_BS]], [clean[real_BS]])
    assert torch.isfinite(clean).all()


@law
@given(seed=seeds, sources=st.integers(1, 6))
def test_anchored_attention_equals_the_reference_by_hand(seed: int, sources: int) -> None:
    """Pairwise attention with anchors is softmax over [anchors; sources], with the bias on the sources alone."""
    plugin = made(Pairwise, anchor=AttentionAnchors(count=2), qk_norm=False)
    layer = started(plugin.build(8), seed)
    x_BSD, bias = randn(seed + 1, 2, sources, 8), randn(seed + 2, sources, sources)
    front_BAD = layer.anchor(x_BSD, None)
    every_BSD = torch.cat([front_BAD, x_BSD], 1)
    q, k, v = (
        f(x).unflatten(-1, (2, -1)).transpose(1, 2)
        for f, x in ((layer.query, x_BSD), (layer.key, every_BSD), (layer.value, every_BSD))
    )
    logits = q @ k.mT / 2.0
    logits[..., 2:] += bias
    wanted = layer.output((logits.softmax(-1) @ v).transpose(1, 2).flatten(2))
    close([layer(x_BSD, bias=bias)], [wanted])


def test_anchors_twice_are_refused() -> None:
    """Sources that bring anchors of their own need none of the layer's."""
    layer = made(Pairwise, anchor=AttentionAnchors(count=2)).build(8)
    with pytest.raises(ValueError, match="have 1 anchors in front already"):
        layer(torch.zeros(1, 3, 8), context_BSD=torch.zeros(1, 4, 8), layout=Layout(anchors=1))


@law
@given(seed=seeds, cross=st.booleans())
def test_rope_in_attention_turns_queries_and_keys(seed: int, cross: bool) -> None:
    """Shifting both sides of genomic places by one distance changes no output; moving one side does."""
    layer = started(made(Pairwise, position=Rope(origin="genomic", unit=1.0)).build(8), seed)
    x_BQD, context_BSD = randn(seed + 1, 2, 4, 8), randn(seed + 2, 2, 5, 8) if cross else None
    place_BQP, place_BSP = 9 * randn(seed + 3, 2, 4, 1), 9 * randn(seed + 4, 2, 5, 1) if cross else None

    def at(shift: float, only: bool = False) -> Tensor:
        other = None if place_BSP is None else place_BSP + (0 if only else shift)
        return layer(x_BQD, context_BSD=context_BSD, layout=Layout(place_BQP=place_BQP + shift, place_BSP=other))

    close([at(37.0)], [at(0.0)], 1e-8)
    if cross:
        assert not torch.allclose(at(1.0, only=True), at(0.0))


@pytest.mark.parametrize("told", [True, False])
def test_anchors_of_nothing_are_not_seen(told: bool) -> None:
    """Without any source, said to be none or not, what comes out is what blind queries read."""
    layer = started(made(Pairwise, anchor=AttentionAnchors(count=2)).build(8), 0)
    x_BQD, nothing_BSD = randn(1, 2, 3, 8), randn(2, 2, 0, 8)
    real_BS = torch.zeros(2, 0, dtype=torch.bool) if told else None
    found = layer(x_BQD, context_BSD=nothing_BSD, real_BS=real_BS)
    close([found], [layer.output(torch.zeros_like(x_BQD))])
