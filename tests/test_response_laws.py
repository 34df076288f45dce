"""Networks of perturbation responses against the laws of their kind."""

from __future__ import annotations

import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from core.kinds import Backbone, Card, Parts
from core.testing.backbone import BackboneLaws
from core.testing.draws import Drawable
from response import backbone, batch, cards, moved, parts

ATTENTIONS = ("differential", "softmax", "gated_headwise", "linear")
FFNS = ("dense(ratio=2)", "moe4x2(ratio=2)", "swiglu")
VARIANTS = {
    "diff_perceiver": backbone("diff_perceiver"),
    "diff_perceiver-cross": backbone("diff_perceiver", control="cross"),
    "perceiver": backbone(
        "perceiver",
        **{"frame.product": False, "frame.adapter": "add", "frame.latent_act": "gelu", "frame.neighbours": 0},
    ),
    "diff_transformer": backbone(
        "diff_transformer",
        **{"frame.combine": "mean", "frame.average_control": True},
        **{"frame.condition": "time", "frame.decoder_depth": 0, "frame.zero": False},
    ),
}


@pytest.mark.parametrize("backbone", VARIANTS.values(), ids=VARIANTS)
class TestResponse(BackboneLaws):
    """Genes of a cell as tokens, expression, latents or both predicted."""

    of_sets = frozenset({"perturbation", "told"})

    def card(self, draw: st.DataObject) -> Card:
        return draw.draw(cards)

    def drawn(self, card: Card, sets: int, count: int, seed: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        return batch(sets, count, seed, on=card, same=bool(seed % 2) and count <= card.sizes["genes"])

    def built(self, backbone: Drawable[Backbone], data: st.DataObject, seed: int) -> tuple[Card, nn.Module]:
        card, network = super().built(backbone, data, seed)
        genes = card.sizes["genes"]
        if network.genes.reading is not None:  # alone, a gene has nothing to choose from
            network.set_neighbours((torch.arange(genes)[:, None] + 1) % genes)
        return card, moved(network, seed)  # else read-outs of 0 would keep every law

    def parts(self, draw: st.DataObject, card: Card) -> Parts:
        return parts(
            streams=draw.draw(st.sampled_from([("expression", "latent"), ("expression",), ("latent",)])),
            depth=draw.draw(st.integers(1, 2)),
            dropout=draw.draw(st.sampled_from([0.0, 0.3])),
            attention=draw.draw(st.sampled_from(ATTENTIONS)),
            ffn=draw.draw(st.sampled_from(FFNS)),
            recompute=draw.draw(st.booleans()),
        )
