"""Anchor: a few tokens that stand for all sources. B batch, S source tokens, A anchors, D width."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar

from core.kinds.plugin import Plugin
from core.kinds.size import counted_flops, counted_params

if TYPE_CHECKING:
    from torch import nn


class Anchor(Plugin):
    """Makes extra tokens that attention adds to its sources as keys which every query sees, whatever the mask.

    They give a local mask a view of the whole set at a cost of A keys a query. They have no place, so attention gives
    them no position, and they are made of the sources alone. Diversity losses are told by `core.nn.auxiliary`.

    Laws (`core.testing.anchor.AnchorLaws`): A tokens of the sources' width and dtype, for any number of sources, none
    included; padding changes neither values nor gradients, whatever it holds, NaN included; a set without real
    sources has finite anchors; permuting the sources changes nothing; the gradient reaches every real source.
    """

    KIND: ClassVar[str] = "anchor"

    @abstractmethod
    def build(self, width: int) -> nn.Module:
        """A module `forward(context_BSD, real_BS=None) -> (B, A, D)` with an attribute `count`, which is A.

        `real_BS` is bool, False on padding; None where nothing is padded. A set without real sources gives zeros.
        """

    def params(self, width: int) -> int:
        """How many parameters the module has that `build(width)` makes; a built-in piece says so in closed form."""
        return counted_params(lambda: self.build(width))

    def flops(self, width: int, sources: int) -> int:
        """FLOPs of the matrix products that make the anchors of one set; a multiply-add counts twice."""
        import torch

        return counted_flops(lambda: self.build(width).eval()(torch.empty(1, sources, width)))
