"""Backbones against the laws of their kind."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st

from core.config import resolve_part
from core.kinds import Card, Parts
from core.testing.backbone import BackboneLaws
from plugins.backbones.alphastomics import AlphaStomics
from plugins.backbones.cells import Cells
from plugins.backbones.luna import Luna

ATTENTIONS = ("softmax", "gated_headwise", "gated_elementwise", "linear", "softmax(mask=neighbours(k=2))")
FFNS = ("dense(ratio=2)", "moe4x2(ratio=2)", "moe4x2(ratio=2,activation=relu,noise=0.01,balanced=first)", "swiglu")


class Spatial(BackboneLaws):
    """Cells with expression and coordinates."""

    asked: tuple[tuple[str, ...], ...] = (("expression", "position"), ("position",), ("expression",))

    def card(self, draw: st.DataObject) -> Card:
        sizes = {"genes": draw.draw(st.integers(1, 5)), "dims": draw.draw(st.integers(2, 3))}
        return Card(name="drawn", sizes=sizes, splits={}, fingerprint="")

    def shapes(self, card: Card) -> dict[str, tuple[int, ...]]:
        return {"expression": (card.sizes["genes"],), "position": (card.sizes["dims"],)}

    def parts(self, draw: st.DataObject, card: Card) -> Parts:
        shapes = self.shapes(card)
        return Parts(
            width=8,
            depth=draw.draw(st.integers(1, 2)),
            dropout=draw.draw(st.sampled_from([0.0, 0.3])),
            encoder=resolve_part("encoder", draw.draw(st.sampled_from(["cell", "expression(hidden=9)"])), {}),
            attention=resolve_part("attention", draw.draw(st.sampled_from(ATTENTIONS)), {"heads": 2}),
            ffn=resolve_part("ffn", draw.draw(st.sampled_from(FFNS)), {}),
            residual=resolve_part("residual", "plain", {}),
            outputs={m: shapes[m][0] for m in draw.draw(st.sampled_from(self.asked))},
            recompute=draw.draw(st.booleans()),
        )


BACKBONES = {
    "cells": Cells(),
    "alphastomics": AlphaStomics(time_width=24, time_hidden=33, time_inner=7),
    "alphastomics-faithful": AlphaStomics(time_width=24, time_hidden=33, time_inner=7, block=2.0, faithful=True),
}
PLACES = {
    "luna": Luna(time_width=24, time_hidden=33, time_inner=7),
    "luna-faithful": Luna(time_width=24, time_hidden=33, time_inner=7, block=0.0, faithful=True),
}


@pytest.mark.parametrize("backbone", BACKBONES.values(), ids=BACKBONES)
class TestBackbones(Spatial):
    """Networks that predict either modality or both."""


@pytest.mark.parametrize("backbone", PLACES.values(), ids=PLACES)
class TestPlaces(Spatial):
    """Networks that predict positions alone."""

    asked = (("position",),)
