"""Now and then a training step sees beyond the window."""

from __future__ import annotations

from torch import Tensor

from core.kinds.mask import Band, Layout, Mask
from core.params import knob, params, slot


@params
class FullFallback(Mask):
    """The mask below it; with probability p a training step drops that mask's window.

    Only the window goes: padding, sides, causality and anchors hide and show as before. The chance comes from a stream
    of the attention layer's own (`Layout.chance`), once a forward pass; in evaluation nothing is dropped. A mask
    without a window (`full`, `causal`, `block_causal`, `cross_only`) stays as it is, so there this does nothing. Not to
    be confused with dropout, which hides more, not less.
    """

    p: float = knob(0.05, "probability that a training step drops the window", gt=0.0, le=1.0)
    mask: Mask = slot("window_anchor", "what holds otherwise")

    @property
    def indexed(self) -> bool:
        return self.mask.indexed

    def sees(self, q: Tensor, s: Tensor) -> Tensor:
        return self.mask.sees(q, s)

    def on(self, layout: Layout) -> Mask:
        bound = self.mask.on(layout)
        dropped = layout.chance is not None and layout.chance() < self.p
        return bound.without_window() if dropped else bound

    @property
    def own_anchors(self) -> int | None:
        return self.mask.own_anchors

    @property
    def hull(self) -> Band | None:
        return self.mask.hull
