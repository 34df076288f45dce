"""The network of AlphaSTomics. D width, P axes of space, T width of the time stream."""

from __future__ import annotations

import torch.nn.functional as F
from torch import nn

from core.kinds import Backbone, Card, Parts
from core.params import knob, params
from plugins.backbones._layer import Layer, Places, TimeStep
from plugins.backbones._places import Radial
from plugins.backbones._streams import Outward, ThreeStreams, axes_of, frozen, mlp


@params
class AlphaStomics(Backbone):
    """Post-norm layers in which a place is a stream of its own: what attention read becomes a new place.

    After AlphaSTomics, which derives from LUNA (doi:10.1101/2025.02.13.638045); `plugins.backbones._layer` has the
    equations. Two things are other than there: padding is hidden from attention, norms and router, and places are
    centred over the real cells in every layer, so that the network does not see where the origin lies. As each modality
    has a time here, the network is told both. What nothing would read is not built.

    `faithful` builds all that the origin builds, to the parameter: the time stream's step of the last layer and the
    read-out of a modality that is always given, which are counted and never used, and one time, that of the noisiest
    modality. With `attention = linear(bias=false)` and
    `block = 4` attention is the whole transformer block that the origin calls linear attention.
    """

    time_width: int = knob(64, "channels of the time stream", ge=2)
    time_hidden: int = knob(64, "inner width of the embedding of time", ge=1)
    time_inner: int = knob(256, "inner width of the time stream's step in a layer", ge=1)
    place_hidden: int = knob(64, "inner width of the embedding of places", ge=1)
    bottleneck: int = knob(64, "inner width of what a layer shows attention of cells and of places", ge=1)
    block: float = knob(
        0.0,
        "inner width, over the model's, of a feed-forward network behind attention in a pre-norm block; 0: no block",
        ge=0.0,
    )
    expression_hidden: int = knob(512, "inner width of the read-out of expression", ge=1)
    position_hidden: int = knob(128, "inner width of the read-out of positions", ge=1)
    faithful: bool = knob(False, "build what the origin builds, what is never used included")

    def build(self, card: Card, parts: Parts) -> nn.Module:
        width, axes = parts.width, axes_of(card, parts, "alphastomics")
        layers = []
        for i in range(parts.depth):
            last = i == parts.depth - 1
            step: nn.Module | None = TimeStep(self.time_width, self.time_inner, parts.dropout, F.gelu)
            if last and step is not None:
                step = frozen(step) if self.faithful else None
            layer = Layer(
                parts,
                time=self.time_width,
                axes=axes if "position" in parts.outputs or not last else 0,
                cells=mlp(width, self.bottleneck, width),
                places=Places(axes, self.bottleneck, axes, far=True),
                spread=True,
                block=self.block,
                step=step,
            )
            layers.append(layer)
        heads: dict[str, nn.Module] = {
            "expression": mlp(width, self.expression_hidden, card.sizes["genes"]),
            "position": Outward(
                mlp(width, self.position_hidden, last=True),
                mlp(self.position_hidden + axes + 1, self.position_hidden, 1),
            ),
        }
        unread = [frozen(head) for m, head in heads.items() if m not in parts.outputs]
        return ThreeStreams(
            parts,
            encoder=parts.tokens(card),
            time=mlp(1 if self.faithful else len(parts.outputs), self.time_hidden, self.time_width, last=True),
            together=self.faithful,
            radial=Radial(self.place_hidden),
            layers=layers,
            heads={m: head for m, head in heads.items() if m in parts.outputs},
            unread=unread if self.faithful else [],
        )
