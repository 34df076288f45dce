"""The network of LUNA. D width, P axes of space, T width of the time stream."""

from __future__ import annotations

import torch.nn.functional as F
from torch import nn

from core.kinds import Backbone, Card, Parts
from core.params import knob, params
from plugins.backbones._layer import Layer, Places, TimeStep
from plugins.backbones._places import Radial
from plugins.backbones._streams import Outward, ThreeStreams, axes_of, frozen, mlp


@params
class Luna(Backbone):
    """Expression in, places out: post-norm layers in which what attention read becomes a new place.

    Yu et al. 2025, doi:10.1101/2025.02.13.638045; `plugins.backbones._layer` has the equations. A layer shows attention
    the direction of a place, not its distance. Padding is hidden from attention and from every mean.

    Of the time stream LUNA keeps one channel, and the layer norm of one channel is a constant: behind the first layer
    nothing knows the time. So `time_width` is more here. `faithful` builds all that LUNA builds, to the parameter,
    with the one channel if `time_width` is 1: the last layer's step of the time and an embedding of positions that
    nothing reads are counted and never used.
    """

    time_width: int = knob(64, "channels of the time stream; LUNA has 1", ge=1)
    time_hidden: int = knob(256, "inner width of the embedding of time", ge=1)
    time_inner: int = knob(256, "inner width of the time stream's step in a layer", ge=1)
    place_hidden: int = knob(64, "inner width of the embedding of places, and of a layer's look at them", ge=1)
    place_width: int = knob(64, "channels of what a layer shows attention of a place", ge=1)
    block: float = knob(
        4.0,
        "inner width, over the model's, of a feed-forward network behind attention in a pre-norm block; 0: no block",
        ge=0.0,
    )
    features: int = knob(4, "channels of a cell that decide how far its place lies", ge=1)
    hidden: int = knob(256, "inner width of the read-out of positions", ge=1)
    faithful: bool = knob(False, "build what LUNA builds, what is never used included")

    def __attrs_post_init__(self) -> None:
        if self.time_width == 1 and not self.faithful:
            raise ValueError(
                "time_width is 1, and the layer norm of one channel is a constant, so that behind the first layer "
                "nothing would know the time; take 2 or more, or faithful = true for LUNA as it is"
            )

    def build(self, card: Card, parts: Parts) -> nn.Module:
        if [*parts.outputs] != ["position"]:
            raise ValueError("the backbone luna predicts positions alone; take mode = expr_to_pos, or another backbone")
        width, axes = parts.width, axes_of(card, parts, "luna")
        layers = []
        for i in range(parts.depth):
            step: nn.Module | None = TimeStep(self.time_width, self.time_inner, parts.dropout, F.relu)
            if i == parts.depth - 1 and step is not None:
                step = frozen(step) if self.faithful else None
            layer = Layer(
                parts,
                time=self.time_width,
                axes=axes,
                cells=nn.Linear(width, width),
                places=Places(axes, self.place_hidden, self.place_width, far=False),
                spread=False,
                block=self.block,
                step=step,
            )
            layers.append(layer)
        head = Outward(mlp(width, self.hidden, self.features), mlp(self.features + axes + 1, self.hidden, 1))
        return ThreeStreams(
            parts,
            encoder=parts.tokens(card),
            time=mlp(1, self.time_hidden, self.time_width, last=True),
            together=False,
            radial=Radial(self.place_hidden),
            layers=layers,
            heads={"position": head},
            unread=[frozen(Radial(self.place_hidden))] if self.faithful else [],
        )
