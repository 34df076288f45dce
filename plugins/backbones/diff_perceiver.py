"""The differential perceiver: genes read each other, then against their control cell. D width."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Literal

from torch import nn

from core.kinds import Backbone, Card, Parts
from core.params import group, knob, params
from plugins.backbones._adaln import Block, Sublayers
from plugins.backbones._contrast import Contrast
from plugins.backbones._frame import Frame
from plugins.backbones._response import Response


@params
class DiffPerceiver(Backbone):
    """Two sublayers with a feed-forward network each: genes read each other, then each other against the control cell.

    The second takes off, of the map of weights between the genes of the perturbed cell, a learned share of that between
    the same genes of its control cell (`plugins.backbones._contrast`; lambda_0 is 0.8 - 0.6 exp(-0.3 i) in layer i).
    With `attention = differential` it is the network of scDFM (arXiv:2602.07103), with norms and
    read-outs that start at 0 and keys of the first sublayer that are normed as its queries are.

    `control = cross` puts the chosen attention in that place: genes of the perturbed cell read those of the control
    cell, values too, at whatever the attention costs.
    """

    control: Literal["contrast", "cross"] = knob(
        "contrast", "how the control cell is told: by a map that is taken off, or by cross attention"
    )
    frame: Frame = group("what stands around the layers")

    def idle(self, outputs: Collection[str]) -> tuple[str, ...]:
        return tuple(f"frame.{name}" for name in self.frame.idle(outputs))

    def build(self, card: Card, parts: Parts) -> nn.Module:
        how = Sublayers(parts, "layer", self.frame.zero)

        def block(i: int) -> Block:
            against = None
            if self.control == "contrast":
                against = Contrast(parts.width, self.frame.heads, 0.8 - 0.6 * math.exp(-0.3 * i))
            return Block(
                itself=how.reads(),
                ffn=how.thinks(),
                control=how.reads(against, control=True),
                control_ffn=how.thinks(),
            )

        return Response(card, parts, self.frame, block)
