"""Pooling: many tokens become one vector. B batch, T tokens, S tokens of another set, D width."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar, Protocol

from core.kinds.plugin import Plugin

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn


class Pooling(Plugin):
    """Summarises a set of tokens.

    Laws (`core.testing.pooling.PoolingLaws`): one vector of `out_width` a set, of the dtype of the tokens; padding
    changes neither values nor gradients, whatever it holds, NaN included, and appended padding changes nothing; a set
    without real tokens gives zeros; unless `ordered`, permuting the tokens changes nothing; where `weighted_mean`, the
    result lies between the least and the greatest real token in every channel.
    """

    KIND: ClassVar[str] = "pooling"

    ordered: ClassVar[bool] = False
    """whether the order of the tokens matters"""
    weighted_mean: ClassVar[bool] = True
    """whether the result is a weighted mean of the tokens, so that `out_width` is their width"""

    @abstractmethod
    def build(self, width: int) -> nn.Module:
        """A module with the `forward` and the `out_width` of `PoolingLayer`."""


class PoolingLayer(Protocol):
    """The module that `Pooling.build` returns."""

    out_width: int

    def forward(
        self, x_BTD: Tensor, real_BT: Tensor | None = None, marks: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """One vector a set, (B, out_width).

        Args:
            x_BTD: tokens.
            real_BT: bool, False on padding; None where nothing is padded.
            marks: what else is known, by name. A pooling that looks at the other one of two sets finds its tokens
                (B, S, D) under `other` and their bool (B, S) under `other_real`; where they are missing it looks at the
                set itself.
        """
