"""The differential transformer: genes read each other. D width."""

from __future__ import annotations

from collections.abc import Collection

from torch import nn

from core.kinds import Backbone, Card, Parts
from core.params import group, params
from plugins.backbones._adaln import Block, Sublayers
from plugins.backbones._frame import Frame
from plugins.backbones._response import Response


@params
class DiffTransformer(Backbone):
    """Self attention and a feed-forward network; the control cell is told by the tokens alone.

    After scDFM's block of that name (arXiv:2602.07103; Ye et al. 2024, arXiv:2410.05258), which it is
    with `attention = differential`.
    """

    frame: Frame = group("what stands around the layers")

    def idle(self, outputs: Collection[str]) -> tuple[str, ...]:
        return tuple(f"frame.{name}" for name in self.frame.idle(outputs))

    def build(self, card: Card, parts: Parts) -> nn.Module:
        how = Sublayers(parts, "layer", self.frame.zero)

        def block(i: int) -> Block:
            return Block(itself=how.reads(), ffn=how.thinks())

        return Response(card, parts, self.frame, block)
