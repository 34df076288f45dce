"""Encoder: a batch of data becomes tokens. B batch, T tokens, D width."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar

import attrs

from core.kinds.plugin import Plugin

if TYPE_CHECKING:
    from torch import Tensor, nn

    from core.kinds.data import Card


@attrs.frozen(slots=False)
class Tokens:
    """Tokens and what is known of them."""

    x_BTD: Tensor
    real_BT: Tensor
    """bool, False on padding"""
    marks: dict[str, Tensor] = attrs.field(factory=dict)
    """named (B, T) tensors, such as which tokens belong to the first of two sides"""


class Encoder(Plugin):
    """Turns the fields of a batch into tokens.

    Laws: what a padded token holds is nobody's business; permuting a set's tokens permutes `x`.
    """

    KIND: ClassVar[str] = "encoder"

    @abstractmethod
    def build(self, card: Card, width: int) -> nn.Module:
        """A module `forward(fields: dict[str, Tensor], real_BT) -> Tokens`."""
