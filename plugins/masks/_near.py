"""What the window masks become once the tokens are known.

B batch, Q query and S source tokens, C candidates of a query.
"""

from __future__ import annotations

from typing import Literal

import attrs
import torch
from torch import Tensor

from core.kinds.mask import Band, Banded, Layout, Mask, banded

Coord = Literal["same", "aligned", "concat"]
COORD = "where a query stands among the sources: same index, aligned by true lengths, or index after concatenation"
SHORT = 32
"""lists pay where they hold at most one source in so many: in float32 on a CPU, both passes together, they break even
at about 25 against explicit logits, and at 55 against fused attention, whose mask takes O(Q * S) memory"""


def placed(window: int, causal: bool, coord: Coord, layout: Layout) -> Mask:
    """The window around c(q): |s - c(q)| <= window and, if `causal`, s <= c(q); c as `coord` says.

    One sequence is aligned with itself, so that for it all three coordinates are the same.
    """
    rule = Band(window=window, causal=causal)
    sources = layout.sources - layout.anchors
    if coord == "aligned" and layout.apart:
        return Aligned(
            window=window,
            causal=causal,
            queries=layout.queries,
            sources=sources,
            length_query_B=_length(layout.real_BQ, 0, layout.queries),
            length_source_B=_length(layout.real_BS, layout.anchors, sources),
        ).behind(layout.anchors)
    if coord == "concat" and layout.apart:
        rule = attrs.evolve(rule, shift=-layout.queries if layout.queries_first else sources)
    return Banded(rule=rule).behind(layout.anchors)


def unplaced(window: int, causal: bool, coord: Coord, q: Tensor, s: Tensor) -> Tensor:
    """`Mask.sees` of a window that has not been told of any data.

    Raises:
        ValueError: the coordinate depends on sizes.
    """
    if coord != "same":
        raise ValueError(f"a window with coord = {coord} depends on sizes; bind it first with on(Layout(...))")
    return banded(Band(window=window, causal=causal), q, s)


def _length(real: Tensor | None, anchors: int, tokens: int) -> Tensor:
    return torch.tensor([tokens]) if real is None else real[:, anchors:].sum(dim=1)


@attrs.frozen(kw_only=True, eq=False)
class Aligned(Mask):
    """Windows around c(q) = q (n_s - 1) / max(n_q - 1, 1): first meets first, last meets last, n the true lengths.

    Both sides of each comparison are multiplied by the denominator, so that all of it is exact.
    """

    window: int | None
    causal: bool
    queries: int
    sources: int
    length_query_B: Tensor
    length_source_B: Tensor

    def sees(self, q: Tensor, s: Tensor) -> Tensor:
        run, rise = self._slope(max(q.ndim, s.ndim), q.device)
        return self._shows(s * run - q * rise, run)

    def without_window(self) -> Mask:
        return attrs.evolve(self, window=None)

    @property
    def listed(self) -> Tensor | None:
        if self.window is None or (2 * self.window + 1) * SHORT > self.sources:
            return None
        run, rise = self._slope(2, self.length_query_B.device)
        q_Q1 = torch.arange(self.queries, device=run.device)[:, None]
        lowest_BQ1 = -((self.window * run - q_Q1 * rise) // run)
        s_BQC = lowest_BQ1 + torch.arange(2 * self.window + 1, device=run.device)
        shown_BQC = self._shows(s_BQC * run - q_Q1 * rise, run) & (s_BQC >= 0) & (s_BQC < self.sources)
        return torch.where(shown_BQC, s_BQC, -1)

    def _slope(self, ndim: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Denominator and numerator of the slope, with the batch axis in front of `ndim` others."""
        ones = [1] * ndim
        run = (self.length_query_B - 1).clamp(min=1).to(device).view(-1, *ones)
        return run, (self.length_source_B - 1).clamp(min=0).to(device).view(-1, *ones)

    def _shows(self, ahead: Tensor, run: Tensor) -> Tensor:
        seen = ahead <= 0 if self.causal else ahead == ahead
        return seen if self.window is None else seen & (ahead.abs() <= self.window * run)
