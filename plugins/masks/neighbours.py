"""Each query sees its nearest sources.

B batch, Q query and S source tokens, P axes of space, k neighbours, A anchors.
"""

from __future__ import annotations

from collections.abc import Callable

import attrs
import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from core.kinds.mask import Band, Banded, Clusters, Layout, Mask
from core.params import knob, params
from plugins.masks._near import SHORT

CHUNK = 1 << 22
"""pairs whose distances are held at a time"""
FEW = 512
"""sources below which all distances are quicker than a tree"""
CLUSTER = 64
"""queries of a cluster"""
SPARE = 8
"""candidates of a tree beyond those asked, so that equals at the end are seen"""


@params
class Neighbours(Mask):
    """Query q sees the k real sources nearest to it, itself among them in self attention; all where there are fewer.

    The data says who they are (`Layout.nearest_BQk`, of which the first k count), so that attention costs O(Q k); or it
    gives coordinates (`place_BQP`, `place_BSP`), and Euclidean neighbours are searched once a forward pass (`memo`): on
    a CPU by a k-d tree in O((Q + S) log S), among few sources and elsewhere by all distances in O(Q S), in O(S) memory.
    Near queries are put into clusters then, as they share their neighbours. Of equally near sources the one with the
    lower index comes first; where all sources lie at one place, as they do where places are not known yet, a query sees
    them all. Not symmetric: to be seen by one's neighbour takes that neighbour's list.
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
            place_BQP = layout.place_BQP
            found = _remembered(layout, self.k, lambda: _found(place_BQP, place_BSP, real_BS, self.k))
            return found.behind(layout.anchors)
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
    clusters: Clusters | None = None

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
    def clustered(self) -> Clusters | None:
        return self.clusters

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


def _found(place_BQP: Tensor, place_BSP: Tensor, real_BS: Tensor | None, k: int) -> Listed:
    index_BQk, sources = nearest(place_BQP, place_BSP, real_BS, k), place_BSP.shape[1]
    short = index_BQk.shape[-1] * SHORT <= sources
    crowded = index_BQk.device.type == "cpu" and min(place_BQP.shape[1], sources) >= FEW and short
    return Listed(
        index_BQk=index_BQk, sources=sources, clusters=_clusters(place_BQP, index_BQk, sources) if crowded else None
    )


def _clusters(place_BQP: Tensor, index_BQk: Tensor, sources: int) -> Clusters | None:
    """Queries in blocks that lie together; None where a block's sources are no fewer than a third of all."""
    batch, queries = index_BQk.shape[:2]
    count = -(-queries // CLUSTER)
    members, unions = [], []
    for b in range(batch):
        where_QP = place_BQP[b].detach().double().nan_to_num(0.0, 0.0, 0.0).numpy()
        order_Q = _side_by_side(where_QP)
        filled = np.append(order_Q, np.full(count * CLUSTER - queries, order_Q[-1]))
        members.append(filled.reshape(count, CLUSTER))
        lists_Qk = index_BQk[b].numpy()
        unions.append([np.unique(lists_Qk[rows]) for rows in members[-1]])
        unions[-1] = [seen[seen >= 0] for seen in unions[-1]]
    most = max(1, max(len(seen) for each in unions for seen in each))
    if 3 * most > sources:
        return None
    source_BnU = np.zeros((batch, count, most), np.int64)
    visible_BnqU = np.zeros((batch, count, CLUSTER, most), bool)
    for b in range(batch):
        lists_Qk = index_BQk[b].numpy()
        for i, (rows, seen) in enumerate(zip(members[b], unions[b], strict=True)):
            source_BnU[b, i, : len(seen)] = seen
            query, column = np.nonzero(lists_Qk[rows] >= 0)
            visible_BnqU[b, i, query, np.searchsorted(seen, lists_Qk[rows][query, column])] = True
    query_Bnq = torch.from_numpy(np.stack(members).astype(np.int64))
    place_BQ = torch.empty(batch, queries, dtype=torch.long)
    stand_Bm = torch.arange(count * CLUSTER).expand(batch, -1)
    place_BQ.scatter_(1, query_Bnq.flatten(1)[:, :queries], stand_Bm[:, :queries])
    return Clusters(
        query_Bnq=query_Bnq,
        place_BQ=place_BQ,
        source_BnU=torch.from_numpy(source_BnU),
        visible_BnqU=torch.from_numpy(visible_BnqU),
    )


def _side_by_side(where_QP: np.ndarray) -> np.ndarray:
    """An order (Q,) in which every CLUSTER queries from the first on lie together.

    Halved across the widest axis again and again, at a multiple of CLUSTER: leaves of a tree that halves the points
    themselves hold CLUSTER of them only where their number is a power of 2 times that, and blocks then span two leaves.
    """
    parts, todo = [], [np.arange(len(where_QP))]
    while todo:
        rows = todo.pop()
        blocks = -(-len(rows) // CLUSTER)
        if blocks < 2:
            parts.append(rows)
            continue
        where_nP, first = where_QP[rows], blocks // 2 * CLUSTER
        widest = np.argmax(where_nP.max(0) - where_nP.min(0))
        halves = rows[np.argpartition(where_nP[:, widest], first - 1)]
        todo += [halves[first:], halves[:first]]
    return np.concatenate(parts)


def _remembered(layout: Layout, k: int, find: Callable[[], Listed]) -> Listed:
    """What was found for the very same tensors earlier in this forward pass, else what `find` finds."""
    if layout.memo is None:
        return find()
    asked = (layout.place_BQP, layout.place_BSP, layout.real_BS)
    versions = tuple(None if t is None else t._version for t in asked)
    name = f"nearest {k} behind {layout.anchors}"
    kept = layout.memo.get(name)
    if kept is not None and kept[1] == versions and all(a is b for a, b in zip(kept[0], asked, strict=True)):
        return kept[2]
    found = find()
    layout.memo[name] = (asked, versions, found)
    return found


def nearest(place_BQP: Tensor, place_BSP: Tensor, real_BS: Tensor | None, k: int) -> Tensor:
    """The k nearest real sources of each query, (B, Q, min(k, S)), nearest first, -1 where there are no more."""
    k = min(k, place_BSP.shape[1])
    if place_BSP.shape[1] < FEW or place_BSP.device.type != "cpu" or SPARE + k >= place_BSP.shape[1]:
        return _of_all(place_BQP, place_BSP, real_BS, k)
    sets = []
    for b in range(len(place_BSP)):
        one = slice(b, b + 1)
        real_1S = None if real_BS is None else real_BS[one]
        sets.append(_of_tree(place_BQP[one].detach(), place_BSP[one].detach(), real_1S, k))
    return torch.cat(sets)


def _of_tree(place_1QP: Tensor, place_1SP: Tensor, real_1S: Tensor | None, k: int) -> Tensor:
    """As `nearest` for one set: a few more candidates than asked, and all sources where equals may lie beyond them."""
    real_S = torch.arange(place_1SP.shape[1]) if real_1S is None else real_1S[0].nonzero().squeeze(1)
    source_RP = place_1SP[0, real_S].double()
    if len(real_S) <= k + SPARE or not bool(torch.isfinite(source_RP).all()):
        return _of_all(place_1QP, place_1SP, real_1S, k)
    query_QP = place_1QP[0].double().nan_to_num(0.0, 0.0, 0.0)  # what is no number is padding, and reads nothing
    apart_QC, near_QC = map(torch.from_numpy, cKDTree(source_RP.numpy()).query(query_QP.numpy(), k=k + SPARE))
    near_QC, by_index_QC = near_QC.sort(dim=-1)
    apart_QC, order_QC = apart_QC.gather(-1, by_index_QC).sort(dim=-1, stable=True)
    index_Qk = real_S[near_QC.gather(-1, order_QC)[:, :k]]
    open_Q = (apart_QC[:, -1] <= apart_QC[:, k - 1]).nonzero().squeeze(1)
    if len(open_Q):
        index_Qk[open_Q] = _of_all(place_1QP[:, open_Q], place_1SP, real_1S, k)[0]
    return index_Qk[None]


def _of_all(place_BQP: Tensor, place_BSP: Tensor, real_BS: Tensor | None, k: int) -> Tensor:
    """As `nearest`, from all distances."""
    chunk = max(1, CHUNK // max(1, place_BSP.shape[0] * place_BSP.shape[1]))
    found = []
    with torch.no_grad():
        for part_BqP in place_BQP.double().split(chunk, dim=1):
            apart_BqS = torch.cdist(part_BqP, place_BSP.double(), compute_mode="donot_use_mm_for_euclid_dist")
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
