"""Each query sees its nearest sources.

B batch, Q query and S source tokens, P axes of space, k neighbours, A anchors.
"""

from __future__ import annotations

import attrs
import torch
from torch import Tensor

from core.kinds.mask import Band, Banded, Layout, Mask
from core.params import knob, params
from plugins.masks._near import SHORT

CHUNK = 1 << 22
"""pairs whose distances are held at a time"""


@params
class Neighbours(Mask):
    """Query q sees the k real sources nearest to it, itself among them in self attention; all where there are fewer.

    The data says who they are (`Layout.nearest_BQk`, of which the first k count), so that attention costs O(Q k); or it
    gives coordinates (`place_BQP`, `place_BSP`), and Euclidean neighbours are searched in every call, in O(Q S) time
    and O(S) memory. Of equally near sources the one with the lower index comes first; where all sources lie at one
    place, as they do where places are not known yet, a query sees them all. Not symmetric: to be seen by one's
    neighbour takes that neighbour's list.
    """

    k: int = knob(16, "sources that a query sees", ge=1)

    @property
    def indexed(self) -> bool:
        return False

    def sees(self, q: Tensor, s: Tensor) -> Tensor:
        raise ValueError("neighbours must know who is near; bind it first with on(Layout(nearest_BQk=...))")

    def on(self, layout: Layout) -> Mask:
        sources = layout.sources - layout.anchors
        if layout.nearest_BQk is not None:
            index_BQk = _once(layout.nearest_BQk, layout.queries, sources)[..., : self.k]
        elif layout.place_BQP is not None and (layout.place_BSP is not None or not layout.apart):
            place_BSP = layout.place_BQP if layout.place_BSP is None else layout.place_BSP
            real_BS = None if layout.real_BS is None else layout.real_BS[:, layout.anchors :]
            if layout.place_BQP.shape[1] != layout.queries or place_BSP.shape[1] != sources:
                raise ValueError(
                    f"coordinates are of {layout.place_BQP.shape[1]} queries and {place_BSP.shape[1]} sources, tokens "
                    f"are {layout.queries} and {sources}; give one place a token, anchors left out"
                )
            if _tied(place_BSP, real_BS):
                return Banded(rule=Band()).behind(layout.anchors)
            index_BQk = nearest(layout.place_BQP, place_BSP, real_BS, self.k)
        else:
            raise ValueError(
                "neighbours must know who is near, and these tokens have neither lists of neighbours nor places; in "
                "code, layout = Layout(nearest_BQk=...), or place_BQP and, for cross attention, place_BSP, gives them"
            )
        return Listed(index_BQk=index_BQk, sources=sources).behind(layout.anchors)


@attrs.frozen(kw_only=True, eq=False)
class Listed(Mask):
    """Query q sees the sources of its list; -1 is none."""

    index_BQk: Tensor
    sources: int

    def sees(self, q: Tensor, s: Tensor) -> Tensor:
        seen = torch.zeros(
            len(self.index_BQk), *torch.broadcast_shapes(q.shape, s.shape), dtype=torch.bool, device=q.device
        )
        for index_BQ in self.index_BQk.to(q.device).unbind(-1):  # a table of k at once would be k times as large
            seen |= index_BQ[:, q] == s
        return seen

    def without_window(self) -> Mask:
        return Banded(rule=Band())

    @property
    def listed(self) -> Tensor | None:
        return self.index_BQk if self.index_BQk.shape[-1] * SHORT <= self.sources else None


def _tied(place_BSP: Tensor, real_BS: Tensor | None) -> bool:
    """Whether in every sample all real sources lie at one place, so that none is nearer than another."""
    if place_BSP.is_meta or place_BSP.shape[1] < 2:
        return False
    real_BS1 = torch.ones_like(place_BSP[..., :1], dtype=torch.bool) if real_BS is None else real_BS[..., None]
    low_BP = place_BSP.masked_fill(~real_BS1, torch.inf).amin(1)
    return not bool((low_BP < place_BSP.masked_fill(~real_BS1, -torch.inf).amax(1)).any())


def nearest(place_BQP: Tensor, place_BSP: Tensor, real_BS: Tensor | None, k: int) -> Tensor:
    """The k nearest real sources of each query, (B, Q, min(k, S)), nearest first, -1 where there are no more."""
    k, chunk = min(k, place_BSP.shape[1]), max(1, CHUNK // max(1, place_BSP.shape[0] * place_BSP.shape[1]))
    wide = torch.promote_types(place_BQP.dtype, torch.float32)
    found = []
    with torch.no_grad():
        for part_BqP in place_BQP.to(wide).split(chunk, dim=1):
            apart_BqS = torch.cdist(part_BqP, place_BSP.to(wide), compute_mode="donot_use_mm_for_euclid_dist")
            if real_BS is not None:
                apart_BqS = apart_BqS.masked_fill(~real_BS[:, None], float("inf"))
            apart_Bqk, index_Bqk = (part[..., :k] for part in apart_BqS.sort(dim=-1, stable=True))
            found.append(torch.where(apart_Bqk.isinf(), -1, index_Bqk))
    return torch.cat(found, dim=1)


def _once(index_BQk: Tensor, queries: int, sources: int) -> Tensor:
    """A list of neighbours as the data gives it, each source once.

    Raises:
        ValueError: not a list for each query, or an index that is no source.
    """
    if index_BQk.ndim != 3 or index_BQk.shape[1] != queries:
        raise ValueError(f"nearest_BQk must be (B, {queries}, k) for {queries} queries, got {tuple(index_BQk.shape)}")
    if index_BQk.is_meta or index_BQk.numel() == 0:
        return index_BQk
    if bool(((index_BQk < -1) | (index_BQk >= sources)).any()):
        raise ValueError(
            f"nearest_BQk holds {int(index_BQk.min())} to {int(index_BQk.max())}; sources are 0 to {sources - 1}, "
            "anchors not counted, and -1 is none"
        )
    order = index_BQk.sort(dim=-1, stable=True)
    again = torch.zeros_like(index_BQk, dtype=torch.bool)
    again[..., 1:] = order.values[..., 1:] == order.values[..., :-1]
    return index_BQk.masked_fill(torch.zeros_like(again).scatter(-1, order.indices, again), -1)
