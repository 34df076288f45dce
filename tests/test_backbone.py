"""Backbones against the laws of their kind."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st

from core.config import resolve_part
from core.kinds import Card, Parts
from core.testing.backbone import BackboneLaws
from plugins.backbones.cells import Cells

ATTENTIONS = ("softmax", "gated_headwise", "gated_elementwise", "linear", "softmax(mask=neighbours(k=2))")
FFNS = ("dense(ratio=2)", "moe4x2(ratio=2)", "swiglu")


class Spatial(BackboneLaws):
    """Cells with expression and coordinates."""

    def card(self, draw: st.DataObject) -> Card:
        sizes = {"genes": draw.draw(st.integers(1, 5)), "dims": draw.draw(st.integers(2, 3))}
        return Card(name="drawn", sizes=sizes, splits={}, fingerprint="")

    def shapes(self, card: Card) -> dict[str, tuple[int, ...]]:
        return {"expression": (card.sizes["genes"],), "position": (card.sizes["dims"],)}

    def parts(self, draw: st.DataObject) -> Parts:
        return Parts(
            width=8,
            depth=draw.draw(st.integers(1, 2)),
            dropout=draw.draw(st.sampled_from([0.0, 0.3])),
            encoder=resolve_part("encoder", "cell", {}),
            attention=resolve_part("attention", draw.draw(st.sampled_from(ATTENTIONS)), {"heads": 2}),
            ffn=resolve_part("ffn", draw.draw(st.sampled_from(FFNS)), {}),
            residual=resolve_part("residual", "plain", {}),
        )


@pytest.mark.parametrize("backbone", [Cells()], ids=["cells"])
class TestCells(Spatial):
    """The default network of the spatial system."""
