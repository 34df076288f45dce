"""Every combination of mask, sparsifier and gate in every attention, against the same sums written out.

What is tried is what the registry holds: a new row joins by being there. All triples of mask, sparsifier and gate are
tried, each in one attention, position, anchor and batch, so chosen that every pair of choices occurs. The reference
reads each sample alone, without padding, in float64: logits, visible pairs, weights and gate in so many words.

B batch, Q query and S source tokens, N either, A anchors, D width, H heads, K head width.
"""

from __future__ import annotations

import functools
import itertools
import random
from typing import Any

import attrs
import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from core.config import ConfigError, Layer, resolve
from core.kinds import Anchor, Attention, Gate, Layout, Position, Sparsifier
from core.params import fields, params, slot
from core.registry import discover
from core.rows import BUILTIN
from core.testing.draws import close, gradients, randn
from core.testing.mask import Table

WIDTH, HEADS, ANCHORS = 8, 2, 2
REGISTRY = discover(prefer={})
SPOKEN = {"entmax": "entmax1.3", "topk": "topk2"}
"""what is said for a row that is a pattern"""
SMALL: dict[tuple[str, str], dict[str, Any]] = {
    ("mask", "block_causal"): {"block": 2},
    ("mask", "window"): {"w": 1},
    ("mask", "window_causal"): {"w": 2},
    ("mask", "window_anchor"): {"window": 1, "anchors": ANCHORS},
    ("mask", "neighbours"): {"k": 2},
    ("mask", "full_fallback"): {"mask": "window", "mask.w": 1},
    ("sparsifier", "soft_topk"): {"k": 2},
    ("anchor", "attention"): {"count": ANCHORS},
    ("anchor", "projection"): {"count": ANCHORS},
}
"""what makes a piece hide something among few tokens"""


@params
class Holder:
    """What stands above an attention in a user's configuration."""

    attention: Attention = slot("softmax", "the attention that is tried")


def names(kind: str) -> list[str]:
    return [SPOKEN.get(row.name, row.name) for row in REGISTRY.rows(kind) if row.origin.name == BUILTIN]


def over_pairs(name: str) -> bool:
    """Whether an attention has logits, which masks hide and sparsifiers weigh."""
    return {"mask", "sparsifier"} <= {field.name for field in fields(REGISTRY.find("attention", name).row.load())}


PAIRS = [name for name in names("attention") if over_pairs(name)]
ATTENTIONS = [*PAIRS, *(f"bidirectional {name}" for name in PAIRS)]
CHOICES: dict[str, list[str]] = {
    "mask": names("mask"),
    "sparsifier": names("sparsifier"),
    "gate": names("gate"),
    "attention": ATTENTIONS,
    "position": ["none", "rope"],
    "anchor": ["none", "attention"],
    "call": ["self", "cross"],
    "size": ["short", "long"],
}


def resolved(said: dict[str, str]) -> Attention:
    """The attention of these choices, by name, as a user's configuration gives it."""
    first, _, second = said["attention"].partition(" ")
    at = "attention.inner" if second else "attention"
    given: dict[str, Any] = {"attention": first, at: second or first, f"{at}.heads": HEADS}
    for kind in ("mask", "sparsifier", "gate", "position", "anchor"):
        if kind in said:
            given[f"{at}.{kind}"] = said[kind]
            small = SMALL.get((kind, said[kind]), {})
            given |= {f"{at}.{kind}.{name}": value for name, value in small.items()}
    given = {key: (value, "the test") for key, value in given.items()}
    return resolve(Holder, [Layer("the test", given)], REGISTRY).root.attention


@functools.cache
def cases() -> list[dict[str, str]]:
    """All triples of mask, sparsifier and gate, the rest chosen greedily for pairs of choices not seen before."""
    chance, seen, found = random.Random(0), set(), []
    for mask, sparsifier, gate in itertools.product(CHOICES["mask"], CHOICES["sparsifier"], CHOICES["gate"]):
        tried = []
        for _ in range(24):
            drawn = {kind: chance.choice(options) for kind, options in CHOICES.items()}
            tried.append(drawn | {"mask": mask, "sparsifier": sparsifier, "gate": gate})
        best = max(tried, key=lambda case: len(pairs(case) - seen))
        seen |= pairs(best)
        found.append(best)
    return found


@functools.cache
def few() -> list[dict[str, str]]:
    """Cases in which every pair of choices still occurs, those with most new pairs first."""
    missing, left, found = {pair for case in cases() for pair in pairs(case)}, cases(), []
    while missing:
        best = max(left, key=lambda case: len(pairs(case) & missing))
        missing -= pairs(best)
        found.append(best)
    return found


def pairs(case: dict[str, str]) -> set[Any]:
    return set(itertools.combinations(case.items(), 2))


def test_every_pair_of_choices_is_tried() -> None:
    """Of any two slots, each choice of the one meets each choice of the other."""
    seen = {pair for case in few() for pair in pairs(case)}
    wanted = {
        ((one, a), (other, b))
        for one, other in itertools.combinations(CHOICES, 2)
        for a, b in itertools.product(CHOICES[one], CHOICES[other])
    }
    assert wanted <= seen


@attrs.frozen(kw_only=True, eq=False)
class Trial:
    """One call of a layer: what it is given, ragged, and which of it is real. A bidirectional layer takes both sides
    in one sequence for `self` and one direction for `cross`."""

    layer: nn.Module
    x_BQD: Tensor
    context_BSD: Tensor | None
    real_BQ: Tensor
    real_BS: Tensor
    place_BQP: Tensor
    place_BSP: Tensor
    first: int
    table_QS: Tensor | None = None
    """what the data show, of all samples"""

    @property
    def two_sided(self) -> bool:
        return hasattr(self.layer, "there")

    @property
    def inner(self) -> nn.Module:
        return self.layer.there if self.two_sided else self.layer

    def inputs(self) -> list[Tensor]:
        """Tokens that want gradients."""
        tokens = [self.x_BQD] if self.context_BSD is None else [self.x_BQD, self.context_BSD]
        return [part.clone().requires_grad_() for part in tokens]

    def fast(self, inputs: list[Tensor]) -> Tensor:
        """What the layer itself gives, (B, Q, D)."""
        cross = self.context_BSD is not None
        layout = Layout(
            first=self.first,
            real_BQ=self.real_BQ if cross else None,
            place_BQP=self.place_BQP,
            place_BSP=self.place_BSP if cross else None,
        )
        mask = None if self.table_QS is None else Table(self.table_QS)
        context_BSD = inputs[1] if cross else None
        return self.layer(inputs[0], mask, context_BSD=context_BSD, real_BS=self.real_BS, layout=layout)

    def slow(self, inputs: list[Tensor]) -> Tensor:
        """The real queries' outputs of each sample alone, one behind the other, (B Q, D)."""
        return torch.cat([self.alone(b, [part[b] for part in inputs]) for b in range(len(self.x_BQD))])

    def alone(self, b: int, tokens: list[Tensor]) -> Tensor:
        real_Q, real_S, place_QP = self.real_BQ[b], self.real_BS[b], self.place_BQP[b]
        if self.context_BSD is not None:
            return self.read(self.inner, b, (tokens[0], real_Q, place_QP), (tokens[1], real_S, self.place_BSP[b]))
        whole = (tokens[0], real_Q, place_QP)
        if not self.two_sided:
            return self.read(self.layer, b, whole, whole, apart=False)
        one, two = ([part[ends] for part in whole] for ends in (slice(0, self.first), slice(self.first, None)))
        back = self.layer.back if self.layer.back is not None else self.layer.there
        return torch.cat([self.read(self.layer.there, b, one, two), self.read(back, b, two, one)])

    def read(self, layer: nn.Module, b: int, own: Any, other: Any, apart: bool = True) -> Tensor:
        """What one side of one sample reads of another, or of itself."""
        (x_ND, real_Q, place_QP), (y_ND, real_S, place_SP) = own, other
        x_QD, y_SD = x_ND[real_Q], y_ND[real_S]
        layout = Layout(
            queries=len(x_QD),
            sources=len(y_SD),
            apart=apart,
            first=min(self.first, len(x_QD)),
            place_BQP=place_QP[real_Q][None],
            place_BSP=place_SP[real_S][None] if apart else None,
        )
        table_QS = torch.ones(len(x_QD), len(y_SD), dtype=torch.bool)
        if self.table_QS is not None:
            table_QS = self.table_QS[real_Q][:, real_S]
        return by_hand(layer, x_QD, y_SD, table_QS, layout)


def by_hand(layer: nn.Module, x_QD: Tensor, y_SD: Tensor, table_QS: Tensor, layout: Layout) -> Tensor:
    """Attention over pairs in so many words, (Q, D): the layer's own weights, used on one sample without padding."""
    plugin, queries = layer.plugin, len(x_QD)
    front_AD = y_SD.new_zeros(0, WIDTH)
    if layer.anchor is not None and len(y_SD):
        front_AD = layer.anchor(y_SD[None])[0]
    every_SD, anchors = torch.cat([front_AD, y_SD]), len(front_AD)
    visible_QS = torch.ones(queries, len(every_SD), dtype=torch.bool)
    if queries and len(y_SD):
        rule = plugin.mask.on(attrs.evolve(layout, sources=len(every_SD), anchors=anchors))
        seen = rule.sees(torch.arange(queries)[:, None], torch.arange(len(every_SD))[None])
        visible_QS = seen.reshape(queries, len(every_SD)).clone()
    visible_QS[:, anchors:] &= table_QS

    def weights(query: nn.Module, key: nn.Module) -> Tensor:
        q_HQK, k_HSK = by_head(query(x_QD)), by_head(key(every_SD))
        if plugin.qk_norm:
            q_HQK, k_HSK = normed(q_HQK, layer.query_norm.weight), normed(k_HSK, layer.key_norm.weight)
        if type(plugin.position).__name__ == "Rope":
            q_HQK = turned(q_HQK, torch.arange(queries))
            k_HSK = torch.cat([k_HSK[:, :anchors], turned(k_HSK[:, anchors:], torch.arange(len(y_SD)))], 1)
        logits_HQS = (q_HQK[:, :, None] * k_HSK[:, None]).sum(-1) / (WIDTH / HEADS) ** 0.5
        return layer.sparsifier(logits_HQS[None], visible_QS[None, None])[0]

    v_HSK = by_head(layer.value(every_SD))
    if hasattr(layer, "share"):
        a = layer.share
        share = (a.query_1 * a.key_1).sum().exp() - (a.query_2 * a.key_2).sum().exp() + plugin.initial
        map_HQS = weights(layer.query_1, layer.key_1) - share * weights(layer.query_2, layer.key_2)
        read_HQK = normed((map_HQS[..., None] * v_HSK[:, None]).sum(2), layer.norm.weight) * (1 - plugin.initial)
    else:
        read_HQK = (weights(layer.query, layer.key)[..., None] * v_HSK[:, None]).sum(2)
    read_QHK, scores = read_HQK.transpose(0, 1), layer.gate.scores(x_QD[None])
    if scores is not None:
        read_QHK = read_QHK * (scores if scores.ndim == 4 else scores[..., None])[0]
    return layer.output(read_QHK.reshape(queries, WIDTH))


def by_head(x_ND: Tensor) -> Tensor:
    return x_ND.reshape(len(x_ND), HEADS, WIDTH // HEADS).transpose(0, 1)


def normed(x_HNK: Tensor, weight_K: Tensor) -> Tensor:
    return x_HNK / (x_HNK.square().mean(-1, keepdim=True) + 1e-6).sqrt() * weight_K


def turned(x_HNK: Tensor, place_N: Tensor) -> Tensor:
    """Pairs of channels as complex numbers, times exp(i m theta)."""
    width = x_HNK.shape[-1]
    theta_J = 10_000.0 ** (-2.0 * torch.arange(width // 2, dtype=torch.float64) / width)
    spin_NJ = torch.polar(torch.ones(len(place_N), width // 2, dtype=torch.float64), place_N[:, None] * theta_J)
    return torch.view_as_real(torch.view_as_complex(x_HNK.reshape(*x_HNK.shape[:-1], width // 2, 2)) * spin_NJ).flatten(
        -2
    )


def trial(said: dict[str, str], seed: int) -> Trial:
    """A layer with parameters away from their start, and a ragged batch; one sample has no source at all."""
    torch.manual_seed(seed)
    layer = resolved(said).build(WIDTH).double().eval()
    for i, parameter in enumerate(layer.parameters()):
        parameter.data += 0.3 * randn(seed + i, *parameter.shape)
    cross, long = said["call"] == "cross", said["size"] == "long"
    queries, sources = (70, 90) if long else (7, 6)
    sources = sources if cross else queries
    first = queries // 2 if said["attention"].startswith("bidirectional") else 3
    lengths_Q, lengths_S = ([queries, 40, 2], [sources, 66, 0]) if long else ([queries, 4, 1, 2], [sources, 3, 2, 0])
    real_BQ, real_BS = front(queries, lengths_Q), front(sources, lengths_S)
    if not cross:
        if said["attention"].startswith("bidirectional"):
            halves = [[first, 1, 2, first], [queries - first, 2, 1, 0]]
            parts = [front(n, half[: len(lengths_Q)]) for n, half in zip((first, queries - first), halves, strict=True)]
            real_BQ = torch.cat(parts, 1)
        real_BS = real_BQ
    batch = len(lengths_Q)
    return Trial(
        layer=layer,
        x_BQD=randn(seed + 50, batch, queries, WIDTH),
        context_BSD=randn(seed + 51, batch, sources, WIDTH) if cross else None,
        real_BQ=real_BQ,
        real_BS=real_BS,
        place_BQP=randn(seed + 52, batch, queries, 2),
        place_BSP=randn(seed + 53, batch, sources, 2),
        first=first,
    )


def front(tokens: int, lengths: list[int]) -> Tensor:
    return torch.arange(tokens) < torch.tensor(lengths)[:, None]


def outcome(tried: Trial, inputs: list[Tensor], out_ND: Tensor) -> list[Tensor]:
    return [out_ND.detach(), *gradients(out_ND, [*inputs, *tried.layer.parameters()])]


def spoken(case: dict[str, str]) -> str:
    return "-".join(case.values()).replace(" ", "_")


@pytest.mark.parametrize("case", cases(), ids=spoken)
def test_the_layer_is_the_sum_written_out(case: dict[str, str]) -> None:
    """Values and gradients of a ragged batch with NaN in its padding are those of each sample alone; a query that sees
    nothing gives the output's bias, and its sources' gradients are 0."""
    clean = trial(case, 7)
    planted = attrs.evolve(
        clean,
        x_BQD=clean.x_BQD.masked_fill(~clean.real_BQ[..., None], torch.nan),
        context_BSD=None
        if clean.context_BSD is None
        else clean.context_BSD.masked_fill(~clean.real_BS[..., None], torch.nan),
    )
    inputs = planted.inputs()
    fast = outcome(planted, inputs, planted.fast(inputs)[clean.real_BQ])
    inputs = clean.inputs()
    slow = outcome(clean, inputs, clean.slow(inputs))
    close(fast, slow)
    assert (fast[1][~clean.real_BQ] == 0).all()


def hideable(case: dict[str, str]) -> bool:
    """Whether the data may hide pairs here, and no anchor reads a source that is hidden from all queries."""
    return case["anchor"] == "none" and not (case["attention"].startswith("bidirectional") and case["call"] == "self")


@pytest.mark.parametrize("case", [case for case in few() if hideable(case)], ids=spoken)
def test_what_the_data_hide_leaks_nothing(case: dict[str, str]) -> None:
    """A source that the data's mask hides from all queries, holding 1e30, leaves no trace in the others' values and
    gradients; a query from which it hides everything reads nothing, so that the output's bias is all that is left."""
    clean = trial(case, 3)
    queries, sources, cross = clean.x_BQD.shape[1], clean.real_BS.shape[1], clean.context_BSD is not None
    table_QS = torch.ones(queries, sources, dtype=torch.bool)
    table_QS[:, 1] = table_QS[2] = False
    clean = attrs.evolve(clean, table_QS=table_QS)
    inputs, kept_BQ = clean.inputs(), clean.real_BQ.clone()
    slow_ND = clean.slow(inputs)
    if not cross:
        kept_BQ[:, 1] = False
    slow = outcome(clean, inputs, slow_ND[kept_BQ[clean.real_BQ]])
    inputs = clean.inputs()
    inputs[-1].data[:, 1] = 1e30
    out_BQD = clean.fast(inputs)
    fast = outcome(clean, inputs, out_BQD[kept_BQ])
    close(fast, slow)
    assert (fast[len(inputs)][:, 1] == 0).all()
    assert torch.equal(out_BQD[:, 2], clean.inner.output.bias.expand(len(out_BQD), -1))


@pytest.mark.parametrize("case", few(), ids=spoken)
def test_states_are_loaded_and_no_memory_is_needed(case: dict[str, str]) -> None:
    """Another layer of the same choices that loads the state gives the same numbers bit by bit; built and run on the
    meta device the layer gives the shape."""
    tried = trial(case, 5)
    other = resolved(case).build(WIDTH).double().eval()
    other.load_state_dict(tried.layer.state_dict())
    inputs = tried.inputs()
    assert torch.equal(attrs.evolve(tried, layer=other).fast(inputs), tried.fast(inputs))
    with torch.device("meta"):
        layer = resolved(case).build(WIDTH).double()
    without = {
        name: part.to("meta") for name, part in attrs.asdict(tried, recurse=False).items() if isinstance(part, Tensor)
    }
    absent = attrs.evolve(tried, layer=layer, **without)
    assert absent.fast(absent.inputs()).shape == tried.x_BQD.shape


@pytest.mark.parametrize("case", few(), ids=spoken)
def test_closed_forms_are_what_is_counted(case: dict[str, str]) -> None:
    """Parameters, and FLOPs of a forward pass of two sets, are those of `params` and `flops`."""
    queries, sources = (70, 90) if case["size"] == "long" else (7, 6)
    plugin, context_BSD = resolved(case), None
    with torch.device("meta"):
        layer = plugin.build(WIDTH).eval()
        x_BQD = torch.empty(2, queries, WIDTH)
        if case["call"] == "cross":
            context_BSD = torch.empty(2, sources, WIDTH)
        layout = Layout.typical(queries, None if context_BSD is None else sources)
        with FlopCounterMode(display=False) as counter:
            layer(x_BQD, context_BSD=context_BSD, layout=layout)
    assert plugin.params(WIDTH) == sum(p.numel() for p in layer.parameters())
    assert 2 * plugin.flops(WIDTH, queries, None if context_BSD is None else sources) == counter.get_total_flops()


@pytest.mark.parametrize("case", few(), ids=spoken)
def test_half_precision_costs_rounding_only(case: dict[str, str]) -> None:
    """Under autocast to bfloat16 the root mean square error is below 2 % of that of the output in float64; with `topk`,
    whose choice turns over where two logits round to one, that of the median token."""
    wide = trial(case, 11)
    single = trial(case, 11)
    narrow = attrs.evolve(single, layer=single.layer.float())
    with torch.no_grad():
        truth_ND = wide.fast(wide.inputs())[wide.real_BQ]
        with torch.autocast("cpu", torch.bfloat16):
            found_ND = narrow.fast([part.float() for part in wide.inputs()])[wide.real_BQ]
    error_N = (found_ND.double() - truth_ND).square().mean(-1).sqrt() / truth_ND.square().mean().sqrt()
    assert torch.isfinite(error_N).all()
    error = error_N.median() if case["sparsifier"].startswith("topk") else error_N.square().mean().sqrt()
    assert error < 0.02


def test_what_makes_no_sense_is_refused_with_the_reason() -> None:
    """Attention without logits takes no mask but `full`, no sparsifier, no anchor and no position, and says why."""
    for kind, name in itertools.product(
        ("mask", "sparsifier", "position", "anchor"), ("linear", "bidirectional linear")
    ):
        for choice in CHOICES[kind]:
            with pytest.raises(ConfigError, match=r"takes no .*, because "):
                resolved({"attention": name, kind: choice})


@pytest.mark.parametrize("kind", ["gate", "position", "anchor", "sparsifier"])
def test_pieces_that_say_no_size_are_counted(kind: str) -> None:
    """What a kind answers for a piece without closed forms is what the built-in pieces say of themselves."""
    for name in names(kind):
        plugin = getattr(resolved({"attention": "softmax", kind: name}), kind)
        counting = {"gate": Gate, "position": Position, "anchor": Anchor, "sparsifier": Sparsifier}[kind]
        sizes = {"anchor": (WIDTH,), "sparsifier": (HEADS,)}.get(kind, (WIDTH, HEADS, WIDTH // HEADS))
        assert counting.params(plugin, *sizes) == plugin.params(*sizes)
        if kind != "sparsifier":
            assert counting.flops(plugin, *sizes, 5) == plugin.flops(*sizes, 5)


@pytest.mark.parametrize("call", CHOICES["call"])
@pytest.mark.parametrize("attention", [*ATTENTIONS, "linear", "bidirectional linear"])
def test_attentions_that_say_no_size_are_counted(attention: str, call: str) -> None:
    """The same of attentions, linear ones too."""
    plugin, sources = resolved({"attention": attention}), 6 if call == "cross" else None
    assert Attention.params(plugin, WIDTH) == plugin.params(WIDTH)
    assert Attention.flops(plugin, WIDTH, 7, sources) == plugin.flops(WIDTH, 7, sources)
