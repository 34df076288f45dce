"""Head: a vector becomes a prediction. B items, D width, P predicted numbers."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar

from core.kinds.plugin import Plugin

if TYPE_CHECKING:
    from torch import nn


class Head(Plugin):
    """The last map of a model: raw numbers, such as logits or means; what squashes them belongs to the loss.

    Laws (`core.testing.head.HeadLaws`): dtype is kept; a row's prediction depends on that row alone; large inputs give
    finite predictions; the gradient reaches the input and every parameter, and agrees with finite differences; a state
    loads into another head.
    """

    KIND: ClassVar[str] = "head"

    @abstractmethod
    def build(self, width: int, outputs: int) -> nn.Module:
        """A module `forward(x_BD) -> (B, P)` with P = `outputs`."""
