"""Pooling: many tokens become one vector. B batch, T tokens, D width."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar

from core.kinds.plugin import Plugin

if TYPE_CHECKING:
    from torch import nn


class Pooling(Plugin):
    """Summarises a set of tokens. Laws: padded tokens change nothing; a set without real tokens gives zeros."""

    KIND: ClassVar[str] = "pooling"

    @abstractmethod
    def build(self, width: int) -> nn.Module:
        """A module `forward(x_BTD, real_BT, marks) -> (B, out_width)` with an attribute `out_width`."""
