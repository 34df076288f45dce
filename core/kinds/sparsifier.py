"""Sparsifier: logits to attention weights. B batch, H heads, Q query and S source tokens."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar

from core.kinds.plugin import Plugin
from core.kinds.size import counted_params

if TYPE_CHECKING:
    from torch import nn


class Sparsifier(Plugin):
    """A map of each row of logits to a distribution over the visible sources.

    Laws (`core.testing.sparsifier.SparsifierLaws`): weights are >= 0 and sum to 1; exactly 0 where hidden; a row that
    sees nothing is all 0, never NaN; order of the logits is kept; adding a constant to a row changes nothing; weights
    go with their sources when these change places; infinite logits give finite weights; first and second derivatives
    agree with finite differences in float64, those of parameters as well; half precision costs rounding only, autocast
    nothing; a state loads into another module; a meta build runs; `params` is what a count gives, and no matrix product
    is needed.
    """

    KIND: ClassVar[str] = "sparsifier"
    fused: ClassVar[bool] = False
    """True only where a kernel may compute the weights without forming the logits (softmax)."""

    @abstractmethod
    def build(self, heads: int) -> nn.Module:
        """A module `forward(logits_BHQS, visible) -> weights_BHQS`, `visible` a bool tensor that broadcasts.

        The module repeats `fused` as an attribute where it is True: kernels see the module only.
        """

    def params(self, heads: int) -> int:
        """How many parameters the module has that `build(heads)` makes; a built-in piece says so in closed form."""
        return counted_params(lambda: self.build(heads))
