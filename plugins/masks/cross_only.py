"""Each of two sides sees the other alone.

B batch.
"""

from __future__ import annotations

import attrs
import torch
from torch import Tensor

from core.kinds.mask import Band, Banded, Layout, Mask
from core.params import params


@params
class CrossOnly(Mask):
    """In one sequence of two sides, query and source are visible to each other where they lie on different sides.

    Where the second side begins the data says (`Layout.first`). Of two sequences, which cross attention has, each is a
    side, and nothing is hidden, whatever `first` says of one of them.
    """

    @property
    def indexed(self) -> bool:
        return False

    def sees(self, q: Tensor, s: Tensor) -> Tensor:
        raise ValueError("cross_only must know where the second side begins; bind it first with on(Layout(first=...))")

    def on(self, layout: Layout) -> Mask:
        if layout.apart:
            return Banded(rule=Band())
        if layout.first is None:
            raise ValueError(
                "cross_only is for two sides in one sequence, and these tokens have one side; in code, "
                "layout = Layout(first=...) says where the second begins"
            )
        first_B = torch.as_tensor(layout.first).reshape(-1)
        if not first_B.is_meta and bool(((first_B < 0) | (first_B > layout.queries)).any()):
            raise ValueError(
                f"the first side has {first_B.tolist()} tokens of a sequence of {layout.queries}; it may have 0 to all"
            )
        return Sides(first_B=first_B, uniform=isinstance(layout.first, int)).behind(layout.anchors)


@attrs.frozen(kw_only=True, eq=False)
class Sides(Mask):
    """`CrossOnly` of sequences whose second sides begin at `first_B`."""

    first_B: Tensor
    uniform: bool
    """all samples have one first side"""

    def sees(self, q: Tensor, s: Tensor) -> Tensor:
        axes = [] if self.uniform else [1] * max(q.ndim, s.ndim)
        first = self.first_B.to(q.device).view(-1, *axes)
        return (q < first) != (s < first)
