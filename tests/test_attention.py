"""Attention layers."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from core.kinds import Attention, Gate, Kernel, Layout, Mask, NoWeights
from core.testing.attention import AttentionLaws, Read
from core.testing.draws import close, coins, law, randn, seeds, started
from core.testing.mask import Table
from core.train.streams import Streams
from plugins.attention.linear import Linear
from plugins.attention.pairwise import Pairwise
from plugins.gates.elementwise import Elementwise
from plugins.gates.headwise import Headwise
from plugins.gates.none import NoGate
from plugins.kernels import auto
from plugins.kernels.auto import Auto
from plugins.kernels.block_local import BlockLocal
from plugins.kernels.gather import Gather
from plugins.kernels.reference import Reference
from plugins.kernels.sdpa import Sdpa
from plugins.kernels.sdpa_masked import SdpaMasked
from plugins.masks.block_causal import BlockCausal
from plugins.masks.cross_only import CrossOnly
from plugins.masks.full import Full
from plugins.masks.full_fallback import FullFallback
from plugins.masks.neighbours import Neighbours
from plugins.masks.window import Window
from plugins.masks.window_anchor import WindowAnchor
from plugins.masks.window_causal import WindowCausal
from plugins.positions.none import NoPosition
from plugins.sparsifiers.softmax import Softmax

GATES = [NoGate(), Headwise(), Elementwise()]
FEATURES = ("softmax", "elu")
heads = st.sampled_from([1, 2, 4, 8])
gates = st.sampled_from([NoGate(), Headwise(bias=1.0), Elementwise(bias=-1.0)])
dropouts = st.sampled_from([0.0, 0.5])


@pytest.fixture(autouse=True)
def _kernels(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(auto, "candidates", lambda: ((Sdpa(), BlockLocal(), Gather(), SdpaMasked(), Reference()), ()))
    auto._choose.cache_clear()
    yield
    auto._choose.cache_clear()


def pairwise(**given: object) -> Pairwise:
    """A small pairwise attention that differs from the plain one in what is given."""
    plain = {"heads": 2, "mask": Full(), "sparsifier": Softmax(), "gate": NoGate(), "kernel": Auto()}
    plain |= {"position": NoPosition(), "anchor": None}
    return Pairwise(**(plain | given))


pairwises = st.builds(
    pairwise,
    heads=heads,
    qk_norm=st.booleans(),
    dropout=dropouts,
    gate=gates,
    kernel=st.sampled_from([Auto(), SdpaMasked(), Reference()]),
)
widths = st.integers(0, 4)
local_masks = st.one_of(
    st.builds(Window, w=widths),
    st.builds(WindowCausal, w=widths),
    st.builds(WindowAnchor, window=widths, anchors=st.integers(0, 3)),
    st.builds(FullFallback, p=st.just(0.5), mask=st.builds(WindowAnchor, window=widths)),
    st.builds(BlockCausal, block=st.integers(1, 4)),
)
locals_ = st.builds(pairwise, mask=local_masks, kernel=st.sampled_from([Auto(), Reference()]))
linears = st.builds(
    Linear, heads=heads, features=st.sampled_from(FEATURES), bias=st.booleans(), dropout=dropouts, gate=gates
)


@pytest.mark.parametrize("attention", [pairwises], ids=["pairwise"])
class TestPairwise(AttentionLaws):
    """The laws of attention for every way to fill the slots of pairwise attention."""


@pytest.mark.parametrize("attention", [locals_], ids=["local"])
class TestLocal(AttentionLaws):
    """The laws of attention under masks with local structure."""


@pytest.mark.parametrize("attention", [linears], ids=["linear"])
class TestLinear(AttentionLaws):
    """The laws of attention for linear attention, which hides no pairs."""


def by_hand(layer: nn.Module, x_BQD: Tensor, context_BSD: Tensor | None, real_BS: Tensor | None) -> Tensor:
    """Attention in so many words: the weight of every pair, for pairwise and linear layers alike."""
    plugin = layer.plugin
    sources_BSD = x_BQD if context_BSD is None else context_BSD
    q_BQHK, k_BSHK, v_BSHK = (
        project(tokens).unflatten(-1, (plugin.heads, -1))
        for project, tokens in ((layer.query, x_BQD), (layer.key, sources_BSD), (layer.value, sources_BSD))
    )
    seen_BS = torch.ones(sources_BSD.shape[:2], dtype=torch.bool) if real_BS is None else real_BS
    if isinstance(plugin, Pairwise):
        if plugin.qk_norm:
            q_BQHK = q_BQHK / (q_BQHK.square().mean(-1, keepdim=True) + 1e-6).sqrt() * layer.query_norm.weight
            k_BSHK = k_BSHK / (k_BSHK.square().mean(-1, keepdim=True) + 1e-6).sqrt() * layer.key_norm.weight
        raw_BHQS = (torch.einsum("bqhk,bshk->bhqs", q_BQHK, k_BSHK) / q_BQHK.shape[-1] ** 0.5).exp()
    elif plugin.features == "softmax":
        share_BSHK = k_BSHK.exp() * seen_BS[..., None, None]
        share_BSHK = share_BSHK / share_BSHK.sum(1, keepdim=True).clamp_min(1e-300)
        raw_BHQS = torch.einsum("bqhk,bshk->bhqs", q_BQHK.softmax(-1), share_BSHK)
    else:
        raw_BHQS = torch.einsum("bqhk,bshk->bhqs", F.elu(q_BQHK) + 1, F.elu(k_BSHK) + 1)
    raw_BHQS = raw_BHQS * seen_BS[:, None, None, :]
    weights_BHQS = raw_BHQS / raw_BHQS.sum(-1, keepdim=True).clamp_min(1e-300)
    out_BQHK = torch.einsum("bhqs,bshk->bqhk", weights_BHQS, v_BSHK)
    scores = layer.gate.scores(x_BQD)
    if scores is not None:
        out_BQHK = out_BQHK * (scores if scores.ndim == 4 else scores[..., None])
    return layer.output(out_BQHK.flatten(2))


class ByHand(nn.Module):
    """The layer's own weights, used by hand."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(
        self,
        x_BQD: Tensor,
        context_BSD: Tensor | None = None,
        real_BS: Tensor | None = None,
        layout: Layout | None = None,
    ) -> Tensor:
        return by_hand(self.layer, x_BQD, context_BSD, real_BS)


COMBINATIONS = [
    *(pairwise(gate=gate, kernel=kernel, qk_norm=norm) for gate, kernel, norm in itertools.product(
        GATES, (Auto(), SdpaMasked(), Reference()), (True, False))),
    *(Linear(heads=2, gate=gate, features=features) for gate, features in itertools.product(GATES, FEATURES)),
]  # fmt: skip


@pytest.mark.parametrize("padded", [False, True], ids=["whole", "padded"])
@pytest.mark.parametrize("cross", [False, True], ids=["self", "cross"])
@pytest.mark.parametrize("attention", COMBINATIONS, ids=repr)
def test_every_combination_equals_the_explicit_weights(attention: Attention, cross: bool, padded: bool) -> None:
    """Attention x gate x kernel x padding x self or cross: values and gradients are those of the written-out sum."""
    layer = started(attention.build(8), 7)
    x_BQD, context_BSD = randn(1, 3, 5, 8), randn(2, 3, 6, 8) if cross else None
    real_BS = coins(3, 3, 6 if cross else 5) if padded else None
    keep_BQ = real_BS if padded and not cross else None
    fast = Read(attention, layer, x_BQD, context_BSD, Layout()).outcome(keep_BQ, real_BS=real_BS)
    slow = Read(attention, ByHand(layer), x_BQD, context_BSD, Layout()).outcome(keep_BQ, real_BS=real_BS)
    close(fast, slow)


@law
@given(seed=seeds, norm=st.booleans())
def test_without_gate_it_is_sdpa_between_projections(seed: int, norm: bool) -> None:
    """Gate `none` is PyTorch's fused attention and an output projection with the same weights."""
    layer = started(pairwise(qk_norm=norm).build(8), seed, torch.float32)
    x_BQD = randn(seed, 2, 6, 8, dtype=torch.float32)
    q, k, v = (project(x_BQD).view(2, 6, 2, 4) for project in (layer.query, layer.key, layer.value))
    q, k, v = (t.transpose(1, 2) for t in (layer.query_norm(q), layer.key_norm(k), v))
    plain = layer.output(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(2, 6, 8))
    close([layer(x_BQD)], [plain], 1e-6)


@pytest.mark.parametrize("attention", [pairwise(), Linear(heads=2, gate=NoGate())], ids=["pairwise", "linear"])
@pytest.mark.parametrize("gate", [Headwise(bias=40.0), Elementwise(bias=40.0)], ids=repr)
def test_an_open_gate_is_no_gate(attention: Pairwise | Linear, gate: Gate) -> None:
    """With a gate whose bias is large the layer is the layer without gate, from the same seed."""
    gated = type(attention)(**{**vars(attention), "gate": gate})
    x_BQD = randn(0, 2, 6, 8)
    close([started(gated.build(8), 5)(x_BQD)], [started(attention.build(8), 5)(x_BQD)])


@law
@given(seed=seeds, scale=st.floats(0.3, 30.0))
def test_qk_norm_ignores_the_scale_of_queries_and_keys(seed: int, scale: float) -> None:
    """Scaling the query or the key projection leaves the output as it is; without the norm it does not."""
    x_BQD = 10 * randn(seed, 2, 6, 8)
    for name in ("query", "key"):
        moved = []
        for norm in (True, False):
            layer = started(pairwise(qk_norm=norm).build(8), seed)
            before = layer(x_BQD)
            with torch.no_grad():
                for parameter in getattr(layer, name).parameters():
                    parameter.mul_(scale)
            moved.append(float((layer(x_BQD) - before).detach().abs().max()))
        assert moved[0] < 1e-4
        assert abs(scale - 1) < 0.1 or moved[1] > 1e-4


@law
@given(seed=seeds)
def test_own_mask_and_given_mask_are_joined(seed: int) -> None:
    """A pair is visible where the slot's mask and the argument both show it."""
    own, given = Table(coins(seed, 5, 5)), Table(coins(seed + 1, 5, 5))
    x_BQD = randn(seed, 2, 5, 8)
    joined = started(pairwise(mask=own).build(8), seed)(x_BQD, given)
    both = started(pairwise().build(8), seed)(x_BQD, Table(own.shown_QS & given.shown_QS))
    close([joined], [both])


@pytest.mark.parametrize("kernel", [Auto(), SdpaMasked()], ids=repr)
@pytest.mark.parametrize("shape", [(2, 2, 5, 6), (2, 5, 6), (1, 1, 1, 6)], ids=str)
@pytest.mark.parametrize("padded", [False, True])
def test_bias(kernel: Kernel, shape: tuple, padded: bool) -> None:
    """A bias of any shape that broadcasts is added to the logits, and gets its gradient."""
    x_BQD, context_BSD = randn(1, 2, 5, 8), randn(2, 2, 6, 8)
    real_BS = coins(3, 2, 6) if padded else None
    outcomes = []
    for chosen in (kernel, Reference()):
        bias = randn(4, *shape).requires_grad_()
        out_BQD = started(pairwise(kernel=chosen).build(8), 0)(
            x_BQD, context_BSD=context_BSD, bias=bias, real_BS=real_BS
        )
        out_BQD.sin().sum().backward()
        assert bias.grad is not None
        assert (bias.grad != 0).any()
        outcomes.append([out_BQD.detach(), bias.grad])
    close(*outcomes)


@pytest.mark.parametrize("kernel", [Auto(), SdpaMasked(), Reference()], ids=repr)
def test_weights_are_those_of_the_forward_pass(kernel: Kernel) -> None:
    """The weights that a figure shows sum to 1 over what is visible, and applied by hand give the output."""
    layer = started(pairwise(kernel=kernel).build(8), 0)
    x_BQD, mask, real_BS = (
        randn(1, 2, 5, 8),
        Table(torch.ones(5, 5).tril() == 1),
        torch.tensor([[True] * 5, [True] * 3 + [False] * 2]),
    )
    weights_BHQS = layer.weights(x_BQD, mask, real_BS=real_BS)
    hidden = ~(mask.shown_QS & real_BS[:, None, None, :])
    assert (weights_BHQS[hidden.expand_as(weights_BHQS)] == 0).all()
    close([weights_BHQS.sum(-1)], [torch.ones(2, 2, 5, dtype=torch.float64)])
    v_BSHK = layer.value(x_BQD).unflatten(-1, (2, -1))
    out_BQD = layer.output(torch.einsum("bhqs,bshk->bqhk", weights_BHQS, v_BSHK).flatten(2))
    close([out_BQD[real_BS]], [layer(x_BQD, mask, real_BS=real_BS)[real_BS]])


def test_linear_attention_shows_no_weights() -> None:
    """Linear attention forms no weight per pair, and says so instead of inventing one."""
    with pytest.raises(NoWeights, match="choose a pairwise attention"):
        Linear(heads=2, gate=NoGate()).build(8).weights(randn(0, 1, 3, 8))


def test_arms_share_their_first_values() -> None:
    """For one seed the projections start bit-equal across gates, kernels and attentions."""
    arms = [pairwise(gate=gate, kernel=kernel) for gate in GATES for kernel in (Auto(), Reference())]
    layers = [started(plugin.build(8), 11) for plugin in [*arms, Linear(heads=4, gate=Headwise())]]
    first = dict(layers[0].named_parameters())
    for layer in layers[1:]:
        other = dict(layer.named_parameters())
        for name in ("query", "key", "value", "output"):
            assert torch.equal(first[f"{name}.weight"], other[f"{name}.weight"])
            assert torch.equal(first[f"{name}.bias"], other[f"{name}.bias"])


def test_what_does_not_fit_is_refused() -> None:
    """A wrong request is a ValueError that says what was given and what to do."""
    x_BQD, linear = randn(0, 1, 3, 8).float(), Linear(heads=2, gate=NoGate()).build(8)
    with pytest.raises(ValueError, match=r"width of 8 does not divide into 3 heads; heads may be 1, 2, 4, 8"):
        pairwise(heads=3).build(8)
    with pytest.raises(ValueError, match="does not divide into 3 heads"):
        Linear(heads=3, gate=NoGate()).build(8)
    with pytest.raises(ValueError, match="cannot hide pairs, and the mask is of form predicate"):
        linear(x_BQD, Table(torch.ones(3, 3) == 1))
    with pytest.raises(ValueError, match="no logits to add a bias to"):
        linear(x_BQD, bias=torch.zeros(3, 3))
    assert torch.equal(linear(x_BQD, Full()), linear(x_BQD))
    with pytest.raises(ValueError, match="sdpa takes no padding; choose kernel = auto"):
        pairwise(kernel=Sdpa()).build(8)(x_BQD, real_BS=torch.ones(1, 3) == 1)


CONCAT = Window(w=3, coord="concat")
LOCAL = [
    Window(w=3),
    Window(w=1, coord="aligned"),
    Window(w=8, coord="aligned"),
    CONCAT,
    WindowCausal(w=2, coord="aligned"),
    WindowAnchor(window=3, anchors=2),
    Neighbours(k=3),
    CrossOnly(),
]


@pytest.mark.parametrize(
    ("mask", "cross"),
    [(mask, cross) for mask in LOCAL for cross in (False, True) if not (cross and mask == CONCAT)],
    ids=str,
)
def test_padding_moves_no_mask(mask: Mask, cross: bool) -> None:
    """A batch of mixed lengths is read as each of its sequences alone, whatever the padding holds.

    Left out are joined indices of two sequences, which depend on padded lengths by their definition.
    """
    layer = started(pairwise(mask=mask).build(8), 3)
    lengths = [(40, 100), (17, 31), (1, 1)]
    x_BQD, context_BSD, place_BQP, place_BSP = (randn(i, 3, n, 8) for i, n in enumerate((40, 100, 40, 100)))
    real_BQ, real_BS = (
        torch.arange(n) < torch.tensor([pair[side] for pair in lengths])[:, None] for side, n in ((0, 40), (1, 100))
    )
    facts = Layout(first=7, place_BQP=place_BQP, place_BSP=place_BSP if cross else None, real_BQ=real_BQ)
    x_BQD = x_BQD if cross else x_BQD.masked_fill(~real_BQ[..., None], float("nan"))
    whole_BQD = layer(
        x_BQD,
        context_BSD=context_BSD.masked_fill(~real_BS[..., None], float("nan")) if cross else None,
        real_BS=real_BS if cross else real_BQ,
        layout=facts,
    )
    for b, (queries, sources) in enumerate(lengths):
        alone = Layout(
            first=min(7, queries),
            place_BQP=place_BQP[b : b + 1, :queries],
            place_BSP=place_BSP[b : b + 1, :sources] if cross else None,
        )
        context_1SD = context_BSD[b : b + 1, :sources] if cross else None
        close(
            [whole_BQD[b : b + 1, :queries]], [layer(x_BQD[b : b + 1, :queries], context_BSD=context_1SD, layout=alone)]
        )


@pytest.mark.parametrize("extra", [False, True], ids=["first tokens", "extra keys"])
def test_anchors_reach_every_query(extra: bool) -> None:
    """With a window of 0 each query reads its own token and the anchors, which are extra keys or the first tokens."""
    layer = started(pairwise(mask=WindowAnchor(window=0, anchors=2)).build(8), 0)
    x_BQD, anchors_BAD = randn(1, 1, 6, 8), randn(2, 1, 2, 8)
    sources_BSD = torch.cat([anchors_BAD, x_BQD], dim=1) if extra else x_BQD
    weights_BHQS = layer.weights(x_BQD, context_BSD=sources_BSD if extra else None)
    own = torch.eye(6, len(sources_BSD[0])).roll(2 if extra else 0, 1) > 0
    seen = (own | (torch.arange(len(sources_BSD[0])) < 2)).expand_as(weights_BHQS)
    assert torch.equal(weights_BHQS > 0, seen)


def test_a_step_now_and_then_goes_without_the_window() -> None:
    """The fallback happens in training alone, at its rate, from the layer's own stream, and shows no padding."""
    layer = started(pairwise(mask=FullFallback(p=0.3, mask=Window(w=0))).build(8), 0)
    x_BQD, real_BS = randn(1, 1, 5, 8), torch.tensor([[True, True, True, True, False]])
    assert torch.equal((layer.weights(x_BQD) > 0)[0, 0], torch.eye(5) > 0)
    layer.train()

    def widened(seed: int) -> list[bool]:
        steps = []
        for step in range(200):
            Streams(seed).reseed(layer, step)
            weights_BHQS = layer.weights(x_BQD, real_BS=real_BS)
            assert (weights_BHQS[..., 4] == 0).all()
            steps.append(bool(weights_BHQS[0, 0, 0, 1] > 0))
        return steps

    once = widened(0)
    assert 30 < sum(once) < 90
    assert widened(0) == once
    assert widened(1) != once


def test_what_local_masks_lack_is_named() -> None:
    """A mask that must know something of the tokens says what, and what to do."""
    x_BQD = randn(0, 1, 3, 8).float()
    with pytest.raises(ValueError, match=r"layout = Layout\(first=...\)"):
        pairwise(mask=CrossOnly()).build(8)(x_BQD)
    with pytest.raises(ValueError, match=r"first side has \[4\] tokens of a sequence of 3"):
        pairwise(mask=CrossOnly()).build(8)(x_BQD, layout=Layout(first=4))
    with pytest.raises(ValueError, match=r"layout = Layout\(nearest_BQk=...\)"):
        pairwise(mask=Neighbours()).build(8)(x_BQD)
    with pytest.raises(ValueError, match="holds 0 to 3; sources are 0 to 2"):
        pairwise(mask=Neighbours()).build(8)(x_BQD, layout=Layout(nearest_BQk=torch.tensor([[[0], [3], [1]]])))
    with pytest.raises(ValueError, match="shows 4 anchors and there are 2 in front of the sources; set anchors = 2"):
        pairwise(mask=WindowAnchor()).build(8)(x_BQD, layout=Layout(anchors=2))
    with pytest.raises(ValueError, match=r"block_local takes no bias.*choose kernel = auto"):
        pairwise(mask=Window(), kernel=BlockLocal()).build(8)(x_BQD, bias=torch.zeros(3, 3))


def flops(attention: Attention, tokens: int, width: int = 16) -> int:
    """What a forward pass costs, counted without memory."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        attention.build(width)(torch.empty(1, tokens, width))
    return counter.get_total_flops()


def test_cost() -> None:
    """Pairwise attention costs four projections and 4 N^2 D, linear attention is linear in the tokens."""
    for tokens in (32, 64):
        assert flops(pairwise(), tokens) == 4 * 2 * tokens * 16**2 + 4 * tokens**2 * 16
        assert flops(Linear(heads=2, gate=NoGate()), tokens) == 4 * 2 * tokens * 16**2 + 4 * tokens * 16 * 8


@pytest.mark.parametrize("mask", [Window(w=8), WindowCausal(w=8), WindowAnchor(window=8, anchors=2)], ids=repr)
def test_a_window_costs_by_the_token(mask: Mask, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice the tokens cost twice the multiplications, and no rule over all pairs is formed."""
    monkeypatch.setattr(Mask, "dense", lambda *_: pytest.fail("a matrix over all pairs"))
    assert flops(pairwise(mask=mask), 2048) == 2 * flops(pairwise(mask=mask), 1024)
    assert flops(pairwise(mask=mask), 2048) < flops(pairwise(), 2048) / 10
