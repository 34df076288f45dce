"""A query sees the sources near it."""

from __future__ import annotations

from torch import Tensor

from core.kinds.mask import Band, Layout, Mask
from core.params import knob, params
from plugins.masks._near import COORD, Coord, placed, unplaced


@params
class Window(Mask):
    """Query q sees sources s with |s - c(q)| <= w; w = 0 is the nearest source alone.

    coord = same: c(q) = q. aligned: c(q) = q (n_s - 1) / max(n_q - 1, 1) with the true lengths of a sample, so that
    two sequences of different length meet end to end and padding moves nothing. concat: the index after both sequences
    are joined into one, sources first unless the layout says otherwise; it depends on padded lengths and exists for
    comparison. Local attention: Beltagy et al. 2020, arXiv:2004.05150, whose window is 2 w here.
    """

    w: int = knob(64, "sources seen on either side", ge=0)
    coord: Coord = knob("same", COORD)

    @property
    def band(self) -> Band | None:
        return Band(window=self.w) if self.coord == "same" else None

    def sees(self, q: Tensor, s: Tensor) -> Tensor:
        return unplaced(self.w, False, self.coord, q, s)

    def on(self, layout: Layout) -> Mask:
        return placed(self.w, False, self.coord, layout)
