"""Masks."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st

from core.testing.mask import MaskLaws
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
plain = windows | block_causals | neighbours | st.sampled_from([Full(), Causal(), CrossOnly()])
fallbacks = st.builds(FullFallback, p=st.sampled_from([0.0, 0.5, 1.0]), mask=plain)


@pytest.mark.parametrize(
    "mask", [Full(), Causal(), CrossOnly(), windows, block_causals, neighbours, fallbacks],
    ids=["full", "causal", "cross_only", "windows", "block_causal", "neighbours", "full_fallback"],
)  # fmt: skip
class TestMasks(MaskLaws):
    """The laws of masks."""


@pytest.mark.parametrize("mask", [st.builds(WindowAnchor, window=widths, anchors=st.just(2))], ids=["window_anchor"])
class TestOwnAnchors(MaskLaws):
    """The laws of masks for one that brings its anchors."""

    own_anchors = True


def test_full_hides_nothing() -> None:
    """The full mask shows every pair, counts them without forming them, and says so by its form."""
    assert Full().form == "full"
    assert Full().dense(3, 5).all()
    assert Full().pairs(10**6, 10**6) == 10**12
