"""The perceiver: genes read their control cell, then each other. D width."""

from __future__ import annotations

from collections.abc import Collection

from torch import nn

from core.kinds import Backbone, Card, Parts
from core.params import group, params
from plugins.backbones._adaln import Block, Sublayers
from plugins.backbones._frame import Frame
from plugins.backbones._response import Response


@params
class Perceiver(Backbone):
    """Cross attention to the control cell's genes, self attention, a feed-forward network.

    After scDFM's block of that name (arXiv:2602.07103), in which the second norm overwrites the
    stream; here each sublayer is added to it, and each is steered and gated by the condition.
    """

    frame: Frame = group("what stands around the layers")

    def idle(self, outputs: Collection[str]) -> tuple[str, ...]:
        return tuple(f"frame.{name}" for name in self.frame.idle(outputs))

    def build(self, card: Card, parts: Parts) -> nn.Module:
        how = Sublayers(parts, "layer", self.frame.zero)

        def block(i: int) -> Block:
            return Block(control=how.reads(control=True), itself=how.reads(), ffn=how.thinks())

        return Response(card, parts, self.frame, block)
