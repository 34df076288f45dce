"""A query sees the sources near it and a few that all see."""

from __future__ import annotations

from torch import Tensor

from core.kinds.mask import Band, Banded, Layout, Mask, banded
from core.params import knob, params


@params
class WindowAnchor(Mask):
    """Query q sees the first `anchors` sources, and of the others those within `window` of it.

    Anchors are extra keys in front of the tokens, whose positions count from behind them. In self attention without
    extra keys the first tokens of the sequence serve as anchors, and their own positions stay what they are (as the
    global tokens of Beltagy et al. 2020, arXiv:2004.05150, seen by all but seeing no further than others).
    """

    window: int = knob(64, "sources seen on either side", ge=0)
    anchors: int = knob(4, "sources at the front that every query sees", ge=0)

    @property
    def own_anchors(self) -> int:
        return self.anchors

    @property
    def hull(self) -> Band:
        return Band(window=self.window, anchors=self.anchors, shift=self.anchors)

    def sees(self, q: Tensor, s: Tensor) -> Tensor:
        return banded(self.hull, q, s)

    def on(self, layout: Layout) -> Mask:
        if layout.anchors not in (0, self.anchors):
            raise ValueError(
                f"window_anchor shows {self.anchors} anchors and there are {layout.anchors} in front of the sources; "
                f"set anchors = {layout.anchors}"
            )
        extra = self.anchors if layout.apart else layout.anchors
        return Banded(rule=Band(window=self.window, anchors=self.anchors, shift=extra))
