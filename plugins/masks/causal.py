"""A query sees what does not come after it."""

from __future__ import annotations

from torch import Tensor

from core.kinds.mask import Band, Mask, banded
from core.params import params


@params
class Causal(Mask):
    """Query q sees sources s <= q (Vaswani et al. 2017, section 3.2.3).

    Queries and sources count from the same start, also where their numbers differ; not to be confused with the
    convention that aligns their ends. DNA has no arrow of time: this is for generation and for comparisons.
    """

    @property
    def band(self) -> Band:
        return Band(causal=True)

    def sees(self, q: Tensor, s: Tensor) -> Tensor:
        return banded(self.band, q, s)
