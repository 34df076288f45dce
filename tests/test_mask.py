"""Masks."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from unittest import mock

import pytest
import torch
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from core.kinds.mask import Band, Layout, Mask
from core.testing.draws import coins, law, randn, seeds
from core.testing.mask import MaskLaws, same, shown
from plugins.masks import neighbours as neighbours_module
from plugins.masks.block_causal import BlockCausal
from plugins.masks.causal import Causal
from plugins.masks.cross_only import CrossOnly
from plugins.masks.full import Full
from plugins.masks.full_fallback import FullFallback
from plugins.masks.neighbours import Neighbours
from plugins.masks.window import Window
from plugins.masks.window_anchor import WindowAnchor
from plugins.masks.window_causal import WindowCausal

widths = st.integers(0, 6)
coords = st.sampled_from(["same", "aligned", "concat"])
windows = st.builds(Window, w=widths, coord=coords) | st.builds(WindowCausal, w=widths, coord=coords)
block_causals = st.builds(BlockCausal, block=st.integers(1, 6))
neighbours = st.builds(Neighbours, k=st.integers(1, 5))
anchored = st.builds(WindowAnchor, window=widths, anchors=st.integers(0, 3))
plain = windows | block_causals | neighbours | anchored | st.sampled_from([Full(), Causal(), CrossOnly()])
fallbacks = st.builds(FullFallback, p=st.sampled_from([1e-9, 0.5, 1.0]), mask=plain)


@pytest.mark.parametrize(
    "mask", [Full(), Causal(), CrossOnly(), windows, block_causals, neighbours, anchored, fallbacks],
    ids=["full", "causal", "cross_only", "windows", "block_causal", "neighbours", "window_anchor", "full_fallback"],
)  # fmt: skip
class TestMasks(MaskLaws):
    """The laws of masks."""


def table(layout: Layout, rule: Callable[[int, int], bool]) -> Tensor:
    """A rule over a query and a source as a bool tensor, (Q, S)."""
    return torch.tensor([[rule(q, s) for s in range(layout.sources)] for q in range(layout.queries)])


APART = Layout(queries=5, sources=9)
ONE = Layout(queries=7, sources=7, apart=False, first=3)


@pytest.mark.parametrize(
    ("mask", "layout", "rule"),
    [
        (Full(), APART, lambda q, s: True),
        (Causal(), APART, lambda q, s: s <= q),
        (BlockCausal(block=2), APART, lambda q, s: s // 2 <= q // 2),
        (Window(w=2), APART, lambda q, s: abs(s - q) <= 2),
        (Window(w=0), APART, lambda q, s: s == q),
        (Window(w=2, coord="aligned"), APART, lambda q, s: abs(s - q * 8 / 4) <= 2),
        (Window(w=1, coord="aligned"), Layout(queries=4, sources=9), lambda q, s: abs(3 * s - q * 8) <= 3),
        (Window(w=1, coord="aligned"), Layout(queries=1, sources=4), lambda q, s: s <= 1),
        (Window(w=2, coord="aligned"), ONE, lambda q, s: abs(s - q) <= 2),
        (Window(w=2, coord="concat"), APART, lambda q, s: abs(s - (9 + q)) <= 2),
        (Window(w=2, coord="concat"), evolve(APART, queries_first=True), lambda q, s: abs(5 + s - q) <= 2),
        (Window(w=2, coord="concat"), ONE, lambda q, s: abs(s - q) <= 2),
        (WindowCausal(w=2), APART, lambda q, s: q - 2 <= s <= q),
        (WindowCausal(w=2, coord="aligned"), APART, lambda q, s: 2 * q - 2 <= s <= 2 * q),
        (WindowAnchor(window=1, anchors=3), APART, lambda q, s: s < 3 or abs(s - 3 - q) <= 1),
        (WindowAnchor(window=1, anchors=3), evolve(APART, anchors=3), lambda q, s: s < 3 or abs(s - 3 - q) <= 1),
        (WindowAnchor(window=1, anchors=3), ONE, lambda q, s: s < 3 or abs(s - q) <= 1),
        (WindowAnchor(window=1, anchors=20), APART, lambda q, s: True),
        (CrossOnly(), ONE, lambda q, s: (q < 3) != (s < 3)),
        (CrossOnly(), APART, lambda q, s: True),
        (CrossOnly(), evolve(APART, first=3), lambda q, s: True),
    ],
    ids=lambda value: str(value) if isinstance(value, Mask) else "",
)
def test_each_mask_is_its_formula(mask: Mask, layout: Layout, rule: Callable[[int, int], bool]) -> None:
    """What a mask shows is what its formula says, pair by pair."""
    assert same(shown(mask, layout), table(layout, rule))


def test_aligned_windows_follow_true_lengths() -> None:
    """Each sample's first and last real tokens meet, whatever padding stands behind them, and lists say the same."""
    lengths = [(30, 170), (12, 41), (1, 5), (30, 1), (0, 0)]
    real_BQ, real_BS = (torch.arange(n) < torch.tensor([[pair[i]] for pair in lengths]) for i, n in ((0, 30), (1, 170)))
    bound = Window(w=2, coord="aligned").on(Layout(queries=30, sources=170, real_BQ=real_BQ, real_BS=real_BS))
    assert bound.form == "listed"
    dense_BQS = bound.dense(30, 170)
    for shown_QS, (queries, sources) in zip(dense_BQS, lengths, strict=True):
        slope = Fraction(max(sources - 1, 0), max(queries - 1, 1))
        wanted_QS = table(Layout(queries=queries, sources=sources), lambda q, s, c=slope: abs(s - q * c) <= 2)
        assert torch.equal(shown_QS[:queries, :sources], wanted_QS.view(queries, sources))


def test_sides_may_differ_between_samples() -> None:
    """The first side of each sample is as long as the data says."""
    bound = CrossOnly().on(Layout(queries=6, sources=6, apart=False, first=torch.tensor([0, 2, 6])))
    for shown_QS, first in zip(bound.dense(6, 6), (0, 2, 6), strict=True):
        assert torch.equal(shown_QS, table(ONE, lambda q, s, n=first: (q < n) != (s < n))[:6, :6])


@law
@given(seed=seeds, k=st.integers(1, 8), chunk=st.sampled_from([1, 1 << 22]), apart=st.booleans())
def test_neighbours_are_the_nearest(seed: int, k: int, chunk: int, apart: bool) -> None:
    """From coordinates each query sees its k nearest real sources, the lower index first among equals."""
    place_BQP, place_BSP = (randn(seed + i, 2, n, 2).mul(2).round() for i, n in enumerate((6, 9)))
    place_BSP = place_BSP if apart else place_BQP
    sources = place_BSP.shape[1]
    real_BS = coins(seed + 2, 2, sources)
    layout = Layout(queries=6, sources=sources, apart=apart, real_BS=real_BS)
    layout = evolve(layout, place_BQP=place_BQP, place_BSP=place_BSP if apart else None)
    with mock.patch.object(neighbours_module, "CHUNK", chunk):
        dense_BQS = shown(Neighbours(k=k), layout)
    for b in range(2):
        for q in range(6):
            real = [s for s in range(sources) if real_BS[b, s]]
            order = sorted(real, key=lambda s: (float((place_BQP[b, q] - place_BSP[b, s]).square().sum()), s))
            assert dense_BQS[b, q].nonzero().flatten().tolist() == sorted(order[:k])


def test_neighbours_of_a_list() -> None:
    """The first k of a given list count, a repeated one once, -1 not at all."""
    listed_BQk = torch.tensor([[[4, 4, 1, 3], [-1, 2, -1, 0]]])
    dense_BQS = shown(Neighbours(k=3), Layout(queries=2, sources=5, nearest_BQk=listed_BQk))
    assert [row.nonzero().flatten().tolist() for row in dense_BQS[0]] == [[1, 4], [2]]
    with pytest.raises(ValueError, match=r"nearest_BQk must be \(B, 3, k\) for 3 queries, got \(1, 2, 4\)"):
        Neighbours().on(Layout(queries=3, sources=5, nearest_BQk=listed_BQk))
    with pytest.raises(ValueError, match="coordinates are of 2 queries and 2 sources, tokens are 3 and 3"):
        Neighbours().on(Layout(queries=3, sources=3, apart=False, place_BQP=randn(0, 1, 2, 2)))


@pytest.mark.parametrize(
    ("joined", "band"),
    [
        (Window(w=3) & Causal(), Band(window=3, causal=True)),
        (Causal() & Window(w=3), WindowCausal(w=3).band),
        (Window(w=3) & WindowCausal(w=5), Band(window=3, causal=True)),
        (Window(w=3) & Full(), Band(window=3)),
        (Window(w=3) | Window(w=5), Band(window=5)),
        (Window(w=3) | WindowCausal(w=2), Band(window=3)),
        (Causal() | Full(), Band()),
        (Causal() & Causal(), Band(causal=True)),
    ],
    ids=str,
)
def test_algebra_keeps_closed_forms(joined: Mask, band: Band) -> None:
    """Rules in closed form are joined in closed form where that exists."""
    assert joined.band == band
    assert joined.on(Layout(queries=4, sources=4)).band == band


def test_what_is_joined_with_a_window_stays_local() -> None:
    """Hiding more leaves a window's hull, so that its kernel still serves it; showing more does not."""
    layout = Layout(queries=8, sources=8, apart=False, first=3)
    assert (Window(w=2) & CrossOnly()).on(layout).form == "window"
    assert (BlockCausal() & WindowAnchor(window=2)).on(layout).form == "window"
    assert (Window(w=2, coord="aligned") & BlockCausal()).on(layout).hull == Band(window=2)
    assert (Window(w=2) | WindowAnchor(window=3, anchors=1)).on(layout).hull == Band(window=3, anchors=1)
    assert (Window(w=2) | BlockCausal()).on(layout).form == "predicate"


@pytest.mark.parametrize(
    ("mask", "left"),
    [
        (Window(w=1), Full()),
        (Window(w=1, coord="aligned"), Full()),
        (WindowCausal(w=1), Causal()),
        (WindowCausal(w=0), Causal()),
        (WindowAnchor(window=0, anchors=2), Full()),
        (Window(w=1) & CrossOnly(), CrossOnly()),
        (Window(w=1) & Causal(), Causal()),
        (BlockCausal(block=2), BlockCausal(block=2)),
        (Window(w=0) | CrossOnly(), Full()),
    ],
    ids=str,
)
def test_fallback_drops_the_window_alone(mask: Mask, left: Mask) -> None:
    """What a step without window sees is what the rest of the mask shows."""
    layout = evolve(ONE, chance=lambda: 0.2)
    assert same(shown(FullFallback(p=0.3, mask=mask), layout), shown(left, ONE))
    assert same(shown(FullFallback(p=0.1, mask=mask), layout), shown(mask, ONE))
    assert same(shown(FullFallback(p=1.0, mask=mask), ONE), shown(mask, ONE))


def test_a_rule_that_needs_sizes_says_so() -> None:
    """Without a layout a rule that depends on one refuses, and says what to do."""
    index = torch.arange(3)
    for mask in (Window(coord="aligned"), WindowCausal(coord="concat"), CrossOnly(), Neighbours()):
        with pytest.raises(ValueError, match=r"bind it first with on\(Layout\("):
            mask.sees(index, index)


def test_a_window_is_counted_without_forming_it() -> None:
    """The pairs of a rule in closed form are counted at any length."""
    assert Full().form == "full"
    assert Full().pairs(10**6, 10**6) == 10**12
    assert Window(w=10).pairs(10**6, 10**6) == 21 * 10**6 - 110
    assert WindowAnchor(window=10, anchors=4).pairs(10**6, 10**6 + 4) == 25 * 10**6 - 110


def test_neighbours_without_places_hide_nothing() -> None:
    """Where all real sources lie at one place none is nearer: a query sees all, whatever the order of the rows."""
    real_BS = torch.tensor([[True, True, True, False]])
    places = torch.tensor([[[2.0, 1.0], [2.0, 1.0], [2.0, 1.0], [7.0, 7.0]]])
    layout = Layout(queries=4, sources=4, apart=False, real_BQ=real_BS, real_BS=real_BS, place_BQP=places)
    assert Neighbours(k=1).on(layout).form == "full"
    told = evolve(layout, place_BQP=places + torch.arange(4.0)[:, None])
    assert Neighbours(k=1).on(told).form != "full"
