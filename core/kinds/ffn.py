"""Feed-forward: each token on its own. B batch, T tokens, D width."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar

import attrs

from core.kinds.plugin import Plugin

if TYPE_CHECKING:
    from torch import Tensor, nn


@attrs.frozen
class Aux:
    """What a layer says beside its output: losses to add (already weighted) and statistics to log, by name."""

    losses: dict[str, Tensor] = attrs.field(factory=dict)
    stats: dict[str, Tensor] = attrs.field(factory=dict)


class RoutedLayer:
    """Base of modules in which a token uses only some of the parameters; mix it into an `nn.Module`."""

    def idle(self) -> int:
        """Parameters that a token does not use, submodules included."""
        raise NotImplementedError


class FFN(Plugin):
    """A position-wise network.

    Laws (`core.testing.ffn.FFNLaws`): shape and dtype are kept; a token's output depends on that token alone in
    evaluation; padded tokens change neither outputs of real ones nor losses nor statistics; a mixture with one expert
    equals that expert; each token uses exactly `top_k` experts; the balance loss is 1 for even routing and more where a
    sure router prefers an expert; gradients agree with finite differences; a state loads into another layer; `params`
    and `flops` are what a count of the built module gives.
    """

    KIND: ClassVar[str] = "ffn"
    routed: ClassVar[bool] = False
    """whether it sends each token to `top_k` of its `experts` and tells their `load`"""

    @abstractmethod
    def build(self, width: int) -> nn.Module:
        """A module `forward(x_BTD, real_BT=None) -> (x_BTD, Aux)`; `real_BT` is bool, False on padding."""

    @abstractmethod
    def params(self, width: int) -> int:
        """How many parameters the module has that `build(width)` makes, in closed form."""

    @abstractmethod
    def flops(self, width: int, tokens: int) -> int:
        """FLOPs of the matrix products of one forward pass in evaluation, in closed form; a multiply-add counts twice.

        Args:
            width: of the tokens.
            tokens: real ones of the whole batch.
        """
