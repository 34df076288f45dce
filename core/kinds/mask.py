"""Mask: which (query, source) pairs may see each other.

B batch, Q query and S source tokens, P axes of space, k neighbours, C candidates of a query.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import attrs

from core.kinds.plugin import Plugin

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch
    from torch import Tensor

Form = Literal["full", "causal", "window", "listed", "predicate"]
"""What a kernel may act on: no rule, `s <= q`, a `hull` of bounded width, a list a query, anything else."""


@attrs.frozen(kw_only=True, eq=False)
class Layout:
    """What the data says of the tokens of one call. A rule that needs a fact which is absent says so.

    The attention layer fills in sizes, `apart`, `real_BS` and `chance`; whoever calls the layer gives the rest.
    """

    queries: int = 0
    sources: int = 0
    """tokens as they lie in the tensors, padding and anchors included"""
    apart: bool = True
    """queries and sources are two sequences (cross attention), not one and the same"""
    anchors: int = 0
    """extra keys at the front of the sources: every query sees them, and positions of sources count from behind them"""
    real_BQ: Tensor | None = None
    real_BS: Tensor | None = None
    """False on padding; real tokens stand in front of it. None: all are real"""
    first: int | Tensor | None = None
    """tokens of the first side where two are concatenated into one sequence; (B,) where samples differ"""
    queries_first: bool = False
    """of two sequences, the queries are the one that `coord = concat` puts first"""
    nearest_BQk: Tensor | None = None
    """sources of each query, nearest first, anchors not counted; -1 is none"""
    place_BQP: Tensor | None = None
    place_BSP: Tensor | None = None
    """coordinates of queries and sources, anchors not counted; one sequence needs the first alone"""
    memo: dict[str, Any] | None = None
    """what masks found out in this forward pass, for the layers that ask the same; None: each layer finds out itself"""
    chance: Callable[[], float] | None = None
    """draws from U[0, 1) in training, each time anew; None in evaluation"""

    @classmethod
    def typical(cls, queries: int, sources: int | None, anchors: int = 0) -> Layout:
        """A call over one set as the layer tells it, places on the meta device: enough to say what the call costs.

        Args:
            queries: tokens that read.
            sources: tokens of a context; None: the queries are the sources.
            anchors: extra keys in front of the sources.
        """
        import torch

        places = [None if n is None else torch.empty(1, n, 2, device="meta") for n in (queries, sources)]
        return cls(
            queries=queries,
            sources=anchors + (queries if sources is None else sources),
            apart=sources is not None,
            anchors=anchors,
            first=queries // 2,
            place_BQP=places[0],
            place_BSP=places[1],
        )


@attrs.frozen(kw_only=True, eq=False)
class Clusters:
    """Queries that share most of their sources, n clusters of q queries, and the U sources that one of them sees.

    A cluster's weights are a small dense matrix, which costs less than to read each query's own list.
    """

    query_Bnq: Tensor
    """indices; a query may stand twice to fill a cluster"""
    place_BQ: Tensor
    """where each query stands among the n * q"""
    source_BnU: Tensor
    """indices; what fills up is seen by none"""
    visible_BnqU: Tensor


@attrs.frozen(kw_only=True)
class Band:
    """A rule in closed form: query q sees the first `anchors` sources, and with d = s - shift - q those others where
    |d| <= window (None: all) and, if `causal`, d <= 0."""

    window: int | None = None
    causal: bool = False
    anchors: int = 0
    shift: int = 0

    @property
    def before(self) -> int | None:
        """How far back a query sees."""
        return self.window

    @property
    def after(self) -> int | None:
        """How far ahead a query sees."""
        return 0 if self.causal else self.window

    def alike(self, other: Band) -> bool:
        """Whether both measure from the same place, so that they can be joined in closed form."""
        return (self.anchors, self.shift) == (other.anchors, other.shift)

    def within(self, other: Band) -> bool:
        """Whether every pair that this shows, the other shows; False also where that is not known."""
        narrow = other.window is None or (self.window is not None and self.window <= other.window)
        return self.alike(other) and narrow and (self.causal or not other.causal)

    def pairs(self, queries: int, sources: int) -> int:
        """The number of visible pairs."""
        import torch

        middle_Q = torch.arange(queries, device="cpu") + self.shift
        low_Q = middle_Q - (queries + sources + abs(self.shift) if self.before is None else self.before)
        high_Q = middle_Q + (queries + sources + abs(self.shift) if self.after is None else self.after)
        near_Q = high_Q.clamp(max=sources - 1) - low_Q.clamp(min=self.anchors) + 1
        return int(near_Q.clamp(min=0).sum()) + queries * min(self.anchors, sources)

    def meet(self, other: Band) -> Band:
        """What two bands that are `alike` both show."""
        windows = [band.window for band in (self, other) if band.window is not None]
        return attrs.evolve(self, window=min(windows, default=None), causal=self.causal or other.causal)


class Mask(Plugin):
    """A rule over token indices. Padding is data, not a mask: it travels apart.

    `sees` is the one definition: the dense reference, block kernels and the laws all broadcast it. What a rule must
    know of the data (true lengths, sides, neighbours) it takes from a `Layout` by `on`, once a call; kernels are given
    what `on` returned. `band`, `hull` and `listed` let a kernel recognise a shape that it has a fast path for.

    Laws (`core.testing.mask.MaskLaws`): `sees` broadcasts; `pairs` counts what `dense` shows; `&` and `|` are the
    set operations; `band`, `hull` and `listed` tell the truth; anchors are seen by all and move nothing else.
    """

    KIND: ClassVar[str] = "mask"
    ordered: ClassVar[bool] = True
    """whether it tells tokens apart by where they stand"""

    @property
    def indexed(self) -> bool:
        """Whether the order in which tokens lie in the sequence matters to it; not so where the layout tells places."""
        return self.ordered

    @property
    def own_anchors(self) -> int | None:
        """How many sources in front it shows to all by its own account; None: as many as the layout says."""
        return None

    @abstractmethod
    def sees(self, q: Tensor, s: Tensor) -> Tensor:
        """Bool tensor over the broadcast of two integer index tensors; True where query `q` may read source `s`.

        A rule that differs between samples puts one axis of size B in front of that.
        """

    def on(self, layout: Layout) -> Mask:
        """The rule for the tokens of one call.

        Raises:
            ValueError: the layout lacks what the rule must know.
        """
        return self.behind(layout.anchors)

    def behind(self, anchors: int) -> Mask:
        """The rule with extra keys in front of its sources that every query sees."""
        if anchors == 0:
            return self
        if self.band is None:
            return Anchored(mask=self, anchors=anchors)
        band = attrs.evolve(self.band, anchors=anchors + self.band.anchors, shift=anchors + self.band.shift)
        return Banded(rule=band)

    def without_window(self) -> Mask:
        """The rule of one call (what `on` returned) less its window; what else it hides stays hidden."""
        return self if self.band is None else Banded(rule=attrs.evolve(self.band, window=None))

    @property
    def band(self) -> Band | None:
        """The rule itself in closed form, where it has one."""
        return None

    @property
    def hull(self) -> Band | None:
        """A band that contains all visible pairs, where one is known."""
        return self.band

    @property
    def listed(self) -> Tensor | None:
        """The visible sources of each query, (B, Q, C) or (1, Q, C), none twice and -1 for none; None where lists would
        not be short."""
        return None

    @property
    def clustered(self) -> Clusters | None:
        """What `listed` says, by groups of queries; None where there are no such groups."""
        return None

    @property
    def form(self) -> Form:
        """What a kernel may act on, the most telling first."""
        band, hull = self.band, self.hull
        if band is not None and band.window is None:
            if not band.causal:
                return "full"
            return "causal" if band.shift == band.anchors == 0 else "predicate"
        if hull is not None and hull.window is not None:
            return "window"
        return "predicate" if self.listed is None else "listed"

    def pairs(self, queries: int, sources: int) -> int:
        """The number of visible pairs, of all samples where they differ, for FLOPs. O(Q) for a rule in closed form."""
        bound = self.on(Layout(queries=queries, sources=sources))
        return int(bound.dense(queries, sources).sum()) if bound.band is None else bound.band.pairs(queries, sources)

    def dense(self, queries: int, sources: int, device: torch.device | str | None = None) -> Tensor:
        """The whole rule as a bool tensor (Q, S), or (B, Q, S) where samples differ. O(Q*S): for references and small
        inputs."""
        import torch

        q_Q1 = torch.arange(queries, device=device)[:, None]
        s_1S = torch.arange(sources, device=device)[None, :]
        seen = self.on(Layout(queries=queries, sources=sources)).sees(q_Q1, s_1S)
        return seen.expand(*seen.shape[:-2], queries, sources)

    def __and__(self, other: Mask) -> Mask:
        one, two = self.band, other.band
        if one is not None and two is not None and one.alike(two):
            met = one.meet(two)
            return self if met == one else other if met == two else Banded(rule=met)
        if self.form == "full":
            return other
        return self if other.form == "full" else Both(left=self, right=other)

    def __or__(self, other: Mask) -> Mask:
        one, two = self.band, other.band
        if self.form == "full" or (one is not None and two is not None and two.within(one)):
            return self
        if other.form == "full" or (one is not None and two is not None and one.within(two)):
            return other
        return Either(left=self, right=other)


@attrs.frozen(kw_only=True)
class Banded(Mask):
    """A band as a mask: what local masks become once they know their tokens, alone or joined."""

    rule: Band

    @property
    def band(self) -> Band:
        return self.rule

    def sees(self, q: Tensor, s: Tensor) -> Tensor:
        return banded(self.rule, q, s)


@attrs.frozen(kw_only=True)
class Anchored(Mask):
    """A mask whose sources stand behind extra keys that every query sees."""

    mask: Mask
    anchors: int

    def sees(self, q: Tensor, s: Tensor) -> Tensor:
        return self.mask.sees(q, (s - self.anchors).clamp(min=0)) | (s < self.anchors)

    def without_window(self) -> Mask:
        return self.mask.without_window().behind(self.anchors)

    @property
    def hull(self) -> Band | None:
        hull = self.mask.hull
        if hull is None:
            return None
        return attrs.evolve(hull, anchors=self.anchors + hull.anchors, shift=self.anchors + hull.shift)

    @property
    def listed(self) -> Tensor | None:
        import torch

        inner_BQC = self.mask.listed
        if inner_BQC is None:
            return None
        front_A = torch.arange(self.anchors, device=inner_BQC.device)
        moved_BQC = torch.where(inner_BQC < 0, inner_BQC, inner_BQC + self.anchors)
        return torch.cat([front_A.expand(*inner_BQC.shape[:2], -1), moved_BQC], dim=-1)


@attrs.frozen(kw_only=True)
class Both(Mask):
    """Pairs that two masks both show."""

    left: Mask
    right: Mask

    def sees(self, q: Tensor, s: Tensor) -> Tensor:
        return self.left.sees(q, s) & self.right.sees(q, s)

    def on(self, layout: Layout) -> Mask:
        return self.left.on(layout) & self.right.on(layout)

    def without_window(self) -> Mask:
        return self.left.without_window() & self.right.without_window()

    @property
    def hull(self) -> Band | None:
        one, two = self.left.hull, self.right.hull
        if one is None or two is None:
            return two if one is None else one
        if one.alike(two):
            return one.meet(two)
        return two if one.window is None else one


@attrs.frozen(kw_only=True)
class Either(Mask):
    """Pairs that at least one of two masks shows."""

    left: Mask
    right: Mask

    def sees(self, q: Tensor, s: Tensor) -> Tensor:
        return self.left.sees(q, s) | self.right.sees(q, s)

    def on(self, layout: Layout) -> Mask:
        return self.left.on(layout) | self.right.on(layout)

    def without_window(self) -> Mask:
        return self.left.without_window() | self.right.without_window()

    @property
    def hull(self) -> Band | None:
        one, two = self.left.hull, self.right.hull
        if one is None or two is None or one.shift != two.shift:
            return None
        windows = [band.window for band in (one, two) if band.window is not None]
        widest = max(windows) if len(windows) == 2 else None
        return attrs.evolve(one, window=widest, causal=one.causal and two.causal, anchors=max(one.anchors, two.anchors))


def banded(band: Band, q: Tensor, s: Tensor) -> Tensor:
    """`Mask.sees` of a band."""
    distance = s - band.shift - q
    seen = distance <= 0 if band.causal else distance == distance
    if band.window is not None:
        seen = seen & (distance.abs() <= band.window)
    return seen | (s < band.anchors) if band.anchors else seen
