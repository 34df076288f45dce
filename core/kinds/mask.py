"""Mask: which (query, source) pairs may see each other. Q query and S source tokens."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar, Literal

import attrs

from core.kinds.plugin import Plugin

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Form = Literal["full", "causal", "window", "predicate"]


class Mask(Plugin):
    """A rule over token indices, the same for every batch element. Padding is data, not a mask: it travels apart.

    `sees` is the one definition: the dense reference, block kernels and the laws all broadcast it. `form` lets a
    kernel recognise a shape that it has a fast path for.

    Laws (`core.testing.mask.MaskLaws`): `sees` broadcasts; `pairs` counts what `dense` shows; `&` and `|` are the
    set operations.
    """

    KIND: ClassVar[str] = "mask"
    form: ClassVar[Form] = "predicate"

    @abstractmethod
    def sees(self, q: Tensor, s: Tensor) -> Tensor:
        """Bool tensor over the broadcast of two integer index tensors; True where query `q` may read source `s`."""

    def pairs(self, queries: int, sources: int) -> int:
        """The number of visible pairs, for FLOPs."""
        return int(self.dense(queries, sources).sum())

    def dense(self, queries: int, sources: int, device: torch.device | str | None = None) -> Tensor:
        """The whole rule as a bool tensor (Q, S). O(Q*S): for references and small inputs."""
        import torch

        q_Q1 = torch.arange(queries, device=device)[:, None]
        s_1S = torch.arange(sources, device=device)[None, :]
        return self.sees(q_Q1, s_1S).expand(queries, sources)

    def __and__(self, other: Mask) -> Mask:
        if self.form == "full":
            return other
        return self if other.form == "full" else Both(left=self, right=other)

    def __or__(self, other: Mask) -> Mask:
        if self.form == "full":
            return self
        return other if other.form == "full" else Either(left=self, right=other)


@attrs.frozen(kw_only=True)
class Both(Mask):
    """Pairs that two masks both show."""

    left: Mask
    right: Mask

    def sees(self, q: Tensor, s: Tensor) -> Tensor:
        return self.left.sees(q, s) & self.right.sees(q, s)


@attrs.frozen(kw_only=True)
class Either(Mask):
    """Pairs that at least one of two masks shows."""

    left: Mask
    right: Mask

    def sees(self, q: Tensor, s: Tensor) -> Tensor:
        return self.left.sees(q, s) | self.right.sees(q, s)
