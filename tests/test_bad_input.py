"""What the pieces of attention do with inputs nobody should give: one clear message, or a defined answer, never NaN.

B batch, Q query and S source tokens, N either, D width.
"""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from core.config import resolve_part
from core.kinds import Layout
from core.registry import discover
from core.rows import BUILTIN
from core.testing.draws import coins, gradients, randn, started
from tests.small import SMALL

REGISTRY = discover(prefer={})
SPOKEN = {"entmax": "entmax1.3", "topk": "topk2"}
WILD = (torch.nan, torch.inf, -torch.inf, 1e30)


def names(kind: str) -> list[str]:
    return [SPOKEN.get(row.name, row.name) for row in REGISTRY.rows(kind) if row.origin.name == BUILTIN]


SPARSIFIERS, MASKS = names("sparsifier"), names("mask")
ATTENTIONS = ["softmax", "gated_headwise", "gated_elementwise", "window_anchor", "differential", "linear", "linear elu"]


def built(attention: str, **values: object) -> nn.Module:
    """A layer of width 8 by its name and parameters, as a user writes them, with the first values of a seed."""
    name, _, features = attention.partition(" ")
    if features:
        values["features"] = features
    return started(resolve_part("attention", name, {"heads": 2, **values}).build(8), 0, torch.float32)


REFUSED = {
    "--sparsifier entmax2.5": "attention.sparsifier.alpha: must be >= 1.0 and <= 2.0, got 2.5 (name entmax2.5)",
    "--sparsifier entmax0.9": "attention.sparsifier.alpha: must be >= 1.0 and <= 2.0, got 0.9",
    "--sparsifier entmax --sparsifier.alpha nan": "attention.sparsifier.alpha: must be a finite number, got nan",
    "--sparsifier topk0": "attention.sparsifier.k: must be >= 1, got 0 (name topk0)",
    "--sparsifier 'soft_topk(k=0)'": "attention.sparsifier.k: must be >= 1, got 0",
    "--sparsifier 'sigmoid_budget(budget=1)'": "attention.sparsifier.budget: must be > 0.0 and < 1.0, got 1.0",
    "--mask 'window(w=-1)'": "attention.mask.w: must be >= 0, got -1",
    "--mask 'block_causal(block=0)'": "attention.mask.block: must be >= 1, got 0",
    "--mask 'neighbours(k=0)'": "attention.mask.k: must be >= 1, got 0",
    "--mask cross_only": "cross_only is for two sides in one sequence",
    "--mask causal": "spatial takes no mask 'causal', because the cells of a set come in no order",
    "--attention window_anchor": "attention.mask: spatial takes no mask 'window_anchor', because the cells of a set",
    "--mask full_fallback --mask.mask window_causal": "spatial takes no mask 'window_causal'",
    "--position sinusoidal": "attention.position: spatial takes no position 'sinusoidal', because the cells of a set",
    "--position 'rope(origin=centre)'": "spatial takes no position 'rope', because the cells of a set come in no order",
    "--attention.heads 3": "a width of 16 does not divide into 3 heads; heads may be 1, 2, 4, 8, 16",
    "--attention differential --attention.heads 3": "a width of 16 does not divide into 3 heads",
    "--attention linear --attention.heads 32": "a width of 16 does not divide into 32 heads",
    "--attention.heads 0": "attention.heads: must be >= 1, got 0",
    "--attention.heads 1 --gate dual": "needs an even number of them, got 1; choose an even number of heads",
    "--attention.heads 16 --position 'rope(origin=genomic)'": "rope turns pairs of channels, and heads are 1 wide",
    "--ffn moe2x4": "ffn: top_k must be between 1 and experts=2, got 4 (name moe2x4)",
    "--ffn moe2x0": "ffn.top_k: must be >= 1, got 0",
    "--sparsifier entmax15 --attention.kernel sdpa": "sdpa computes softmax alone, and this sparsifier needs",
    "--attention linear --mask causal": "takes no mask, because it sums over all sources once",
}  # fmt: skip


@pytest.mark.parametrize("line", REFUSED)
def test_what_cannot_be_is_refused_before_training(core: Callable, line: str) -> None:
    """Status 2 and one message that names the parameter, what was given and what is allowed."""
    small = [word for word in SMALL if not word.startswith("--attention.heads")]
    said = core("run", *small, *shlex.split(line), "--dry-run")
    assert (said.code, said.out) == (2, "")
    assert said.err.count("core: ") == 1
    assert REFUSED[line] in said.err
    assert "Traceback" not in said.err


@pytest.mark.parametrize("sources", [1, 2, 5])
@pytest.mark.parametrize("name", ["topk9", "soft_topk(k=9)"])
def test_a_k_beyond_the_row_is_the_whole_row(name: str, sources: int) -> None:
    """With k larger than the row all stay: the softmax of `topk`, equal shares of `soft_topk`."""
    sparsifier = resolve_part("attention", "softmax", {"sparsifier": name}).sparsifier
    logits_BHQS = randn(0, 2, 2, 3, sources)
    found_BHQS = sparsifier.build(2)(logits_BHQS, torch.ones(3, sources, dtype=torch.bool))
    wanted = logits_BHQS.softmax(-1) if name == "topk9" else torch.full_like(logits_BHQS, 1 / sources)
    torch.testing.assert_close(found_BHQS, wanted)


@pytest.mark.parametrize("mask", ["window(w=0)", "window_causal(w=0)", "window_anchor(window=0, anchors=0)"])
def test_a_window_of_0_is_the_own_token(mask: str) -> None:
    """Each token reads itself with all its weight."""
    weights_BHQS = built("softmax", mask=mask).weights(randn(0, 2, 5, 8, dtype=torch.float32))
    assert torch.equal(weights_BHQS, torch.eye(5).expand(2, 2, 5, 5))


@pytest.mark.parametrize("shape", [(0, 3, 4), (2, 0, 4), (2, 3, 0), (0, 0, 0), (2, 1, 1)], ids=str)
@pytest.mark.parametrize("attention", ATTENTIONS)
def test_empty_batches_and_single_tokens(attention: str, shape: tuple[int, int, int]) -> None:
    """No sets, no queries, no sources or one of each: the shape is kept, values and gradients are finite; a query
    without a source gives the output's bias."""
    layer, (batch, queries, sources) = built(attention), shape
    for real_BS in (None, torch.ones(batch, sources, dtype=torch.bool)):
        x_BQD = randn(1, batch, queries, 8, dtype=torch.float32).requires_grad_()
        context_BSD = randn(2, batch, sources, 8, dtype=torch.float32).requires_grad_()
        out_BQD = layer(x_BQD, context_BSD=context_BSD, real_BS=real_BS)
        assert out_BQD.shape == x_BQD.shape
        assert all_finite(out_BQD, [x_BQD, context_BSD, *layer.parameters()])
        if sources == 0:
            assert torch.equal(out_BQD, layer.output.bias.expand_as(out_BQD))


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("sparsifier", SPARSIFIERS)
def test_every_mask_and_sparsifier_with_nothing_to_read(mask: str, sparsifier: str) -> None:
    """Sets that are empty, of one token, or padding from end to end, with and without anchors, in all precisions."""
    for anchor, (batch, tokens) in itertools.product(("none", "attention"), ((0, 3), (2, 0), (2, 1), (2, 3))):
        layer = built("softmax", mask=mask, sparsifier=sparsifier, anchor=anchor)
        layout = Layout(first=0, place_BQP=torch.zeros(batch, tokens, 2))
        nothing_BN = torch.zeros(batch, tokens, dtype=torch.bool)
        x_BND = randn(1, batch, tokens, 8, dtype=torch.float32)
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            bias = layer.to(dtype).output.bias
            assert torch.isfinite(layer(x_BND.to(dtype), layout=layout)).all()
            planted_BND = torch.full_like(x_BND, torch.nan, dtype=dtype)
            blind_BND = layer(planted_BND, real_BS=nothing_BN, layout=layout)
            assert torch.equal(blind_BND, bias.expand_as(blind_BND))


@pytest.mark.parametrize("content", WILD)
@pytest.mark.parametrize("cross", [False, True], ids=["self", "cross"])
@pytest.mark.parametrize("attention", ATTENTIONS)
def test_wild_padding(attention: str, cross: bool, content: float) -> None:
    """Padding may hold NaN, infinities or 1e30: values and gradients of all else are finite, its own gradient is 0."""
    layer, real_BS = built(attention), coins(7, 2, 5)
    context_BSD = randn(8, 2, 5, 8, dtype=torch.float32).masked_fill(~real_BS[..., None], content).requires_grad_()
    x_BQD = randn(9, 2, 3, 8, dtype=torch.float32).requires_grad_() if cross else context_BSD
    out_BQD = layer(x_BQD, context_BSD=context_BSD if cross else None, real_BS=real_BS)
    inputs = [context_BSD, x_BQD, *layer.parameters()] if cross else [context_BSD, *layer.parameters()]
    slopes = gradients(out_BQD, inputs)
    assert all(torch.isfinite(part).all() for part in (out_BQD, *slopes))
    assert (slopes[0][~real_BS] == 0).all()


@pytest.mark.parametrize("sparsifier", SPARSIFIERS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_infinite_logits(sparsifier: str, dtype: torch.dtype) -> None:
    """Logits of +inf share their row, those of -inf get nothing beside others, a row of -inf alone stays a simplex or
    gives nothing; gradients are finite."""
    weigh = resolve_part("sparsifier", sparsifier, {}).build(1)
    inf = torch.inf
    rows = [[inf, 0.0, -inf, 1.0], [inf, inf, 0.0, 0.0], [-inf, 0.0, 0.0, -inf], [-inf] * 4, [inf] * 4]
    logits = torch.tensor(rows, dtype=dtype)[None, None].requires_grad_()
    weights = weigh(logits, torch.ones(5, 4, dtype=torch.bool))
    assert all_finite(weights, [logits])
    best_QS = weights[0, 0].detach().float()
    total_Q = best_QS.sum(-1)
    assert ((total_Q - 1).abs() < 0.01)[[0, 1, 2, 4]].all()
    assert total_Q[3] == 0 or (total_Q[3] - 1).abs() < 0.01
    assert (best_QS[2, [0, 3]] == 0).all()
    assert best_QS[1, 0] == best_QS[1, 1] == best_QS[1].max()


@pytest.mark.parametrize("size", [1e15, 1e20, -1e30, 1e35])
@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("norm", [False, True], ids=["plain", "qk_norm"])
def test_huge_tokens(attention: str, norm: bool, size: float) -> None:
    """A token whose product with another would pass the end of float32 gives finite values, normalised or not, by every
    kernel and with rotated channels; and finite gradients of a loss that is bounded itself."""
    linear = attention.startswith("linear")
    for values in [{}] if linear else [{}, {"kernel": "reference"}, {"sparsifier": "entmax15"}, {"position": "rope"}]:
        for dtype in (torch.float32, torch.bfloat16):
            layer = built(attention, **values, **({} if linear else {"qk_norm": norm})).to(dtype)
            x_BND = randn(3, 2, 6, 8).to(dtype)
            x_BND[:, 2] *= size
            out_BND = layer(x_BND.requires_grad_())
            assert torch.isfinite(out_BND).all()
            assert all_finite(out_BND.tanh(), [x_BND, *layer.parameters()])


@pytest.mark.parametrize("attention", ["softmax", "differential"])
def test_bounds_touch_no_healthy_token(attention: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Values and gradients of tokens up to 1e15 are, bit for bit, those without the bound."""
    x_BND = 1e15 ** torch.rand(2, 6, 8, generator=torch.Generator().manual_seed(0))
    told = []
    for free in (False, True):
        if free:
            for module in ("pairwise", "differential"):
                monkeypatch.setattr(f"plugins.attention.{module}.bounded", lambda project, x, heads, normed: project(x))
        layer, given = built(attention, qk_norm=False), x_BND.clone().requires_grad_()
        out_BND = layer(given)
        told.append([out_BND, *gradients(out_BND, [given, *layer.parameters()])])
    assert all(torch.equal(one, other) for one, other in zip(*told, strict=True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("size", [6e4, -6e4])
def test_half_precision_overflow(attention: str, dtype: torch.dtype, size: float) -> None:
    """Activations at float16's end give finite outputs, in half precision and under autocast, with any sparsifier."""
    for sparsifier, norm in itertools.product(
        ["none"] if attention.startswith("linear") else SPARSIFIERS, (False, True)
    ):
        values = {} if sparsifier == "none" else {"sparsifier": sparsifier, "qk_norm": norm}
        layer, x_BND = built(attention, **values), randn(3, 2, 5, 8, dtype=torch.float32)
        x_BND[:, 1:3] = size
        with torch.autocast("cpu", dtype):
            assert torch.isfinite(layer(x_BND)).all()
        assert torch.isfinite(layer.to(dtype)(x_BND.to(dtype))).all()


SPOKEN_IN_HALF = {
    "attention": [
        *(f"{name}(heads=2)" for name in ("softmax", "linear", "differential", "gated_headwise", "gated_elementwise")),
        *(f"softmax(heads=2, sparsifier={name}, qk_norm=false)" for name in SPARSIFIERS),
        *(f"softmax(heads=2, gate={name})" for name in names("gate")),
        *(f"softmax(heads=2, position={name})" for name in names("position")),
        *(f"softmax(heads=2, anchor={name}, mask=window(w=2))" for name in ("projection", "attention")),
        "linear(heads=2, features=elu)", "softmax(heads=2, kernel=reference)",
    ],
    "ffn": ["dense", "swiglu", "moe4x2", "moe4x2(activation=swiglu, shared=1)", "moe4x2(balance=bias, z_weight=0.1)"],
    "head": names("head"),
    "residual": names("residual"),
}  # fmt: skip


@pytest.mark.parametrize(("kind", "piece"), [(kind, piece) for kind, some in SPOKEN_IN_HALF.items() for piece in some])
@pytest.mark.parametrize("autocast", [False, True], ids=["float16", "autocast"])
def test_no_gradient_in_half_precision_is_nan(kind: str, piece: str, autocast: bool) -> None:
    """Tokens at the end of float16, and beyond it under autocast, with gradients of any size: an infinity at most in
    the gradient of a parameter, which loss scaling detects, and nowhere NaN."""
    plugin = resolve_part(kind, piece, {})
    for seed, slope in itertools.product(range(2), (1.0, 100.0)):
        layer = started(plugin.build(8, 3) if kind == "head" else plugin.build(8), seed, torch.float32)
        size = 2e5 if autocast else 6e4
        inputs = [(randn(seed + i, 2, 7, 8, dtype=torch.float32) * size) for i in range(2 if kind == "residual" else 1)]
        if kind == "head":
            inputs = [x[0] for x in inputs]
        if not autocast:
            layer, inputs = layer.half(), [x.clamp(-65504, 65504).half() for x in inputs]
        more = {"layout": Layout(place_BQP=100 * randn(seed, 2, 7, 2))} if kind == "attention" else {}
        with torch.autocast("cpu", torch.float16, enabled=autocast):
            out = layer(*[x.requires_grad_() for x in inputs], **more)
        out = out[0] if kind == "ffn" else out
        out.backward(slope * randn(seed + 5, *out.shape).to(out.dtype))
        found = [out, *(x.grad for x in inputs), *(p.grad for p in layer.parameters() if p.grad is not None)]
        assert not any(part.isnan().any() for part in found)


def all_finite(out: Tensor, inputs: list[Tensor]) -> bool:
    """Whether values and gradients are."""
    return all(bool(torch.isfinite(part).all()) for part in (out, *gradients(out, inputs)))
