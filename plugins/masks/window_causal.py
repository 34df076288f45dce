"""A query sees the sources shortly before it and its own."""

from __future__ import annotations

from torch import Tensor

from core.kinds.mask import Band, Layout, Mask
from core.params import knob, params
from plugins.masks._near import COORD, Coord, placed, unplaced


@params
class WindowCausal(Mask):
    """Query q sees sources s with c(q) - w <= s <= c(q): w + 1 of them where nothing is cut off.

    It is window & causal; c(q) as in `window`.
    """

    w: int = knob(64, "sources seen before the query's own", ge=0)
    coord: Coord = knob("same", COORD)

    @property
    def band(self) -> Band | None:
        return Band(window=self.w, causal=True) if self.coord == "same" else None

    def sees(self, q: Tensor, s: Tensor) -> Tensor:
        return unplaced(self.w, True, self.coord, q, s)

    def on(self, layout: Layout) -> Mask:
        return placed(self.w, True, self.coord, layout)
