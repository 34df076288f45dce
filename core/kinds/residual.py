"""Residual: how a layer's output joins the stream it was read from. B batch, T tokens, D width."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar

from core.kinds.plugin import Plugin

if TYPE_CHECKING:
    from torch import nn


class Residual(Plugin):
    """Adds a layer's output to its input, times a scale that does not depend on either.

    Parameters of its module, if any, are that scale. Not a gate, which depends on the tokens.

    Laws (`core.testing.residual.ResidualLaws`): the shape is kept, and the wider of both dtypes, so that a wide
    stream stays wide; what is added is linear in the layer's output, token by token; an output of 0 leaves the stream
    exactly as it is, and so does a scale of 0; what padding holds reaches no other token; the gradient reaches stream,
    output and scale; the trainer's `reset_parameters` starts it where `build` does; a state loads into another module.
    """

    KIND: ClassVar[str] = "residual"

    @abstractmethod
    def build(self, width: int) -> nn.Module:
        """A module `forward(x_BTD, out_BTD) -> x_BTD`: the stream, and the output of a layer that read it."""
