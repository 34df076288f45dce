"""Attention: tokens read from each other.

B batch, Q query and S source tokens, D width.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar, Protocol

from core.kinds.plugin import Plugin

if TYPE_CHECKING:
    from torch import Tensor, nn

    from core.kinds.mask import Layout, Mask


class NoWeights(ValueError):
    """This attention forms no weight matrix, so none can be shown."""


class Attention(Plugin):
    """A multi-head attention layer, self or cross, without residual and without norm.

    Laws (`core.testing.attention.AttentionLaws`): output has the shape and dtype of `x_BQD`; a source token hidden by
    `real_BS` changes neither values nor gradients, whatever it holds, NaN included; one that `mask` hides from every
    query neither, as long as it is finite; appended padding changes nothing;
    with a mask that treats all tokens alike, permuting the sources leaves the output as it is; a query that sees
    nothing attends to nothing (all zeros before the output projection); same-named parameters start bit-equal for one
    seed whatever else the layer owns.
    """

    KIND: ClassVar[str] = "attention"
    pairs: ClassVar[bool] = True
    """whether it takes a mask over pairs; one that does not refuses it"""
    ordered: ClassVar[bool] = False
    """whether the order of the sources matters, apart from what masks and positions in its slots make of it"""

    @abstractmethod
    def build(self, width: int) -> nn.Module:
        """The layer over tokens of `width`; its `forward` is that of `AttentionLayer`.

        Raises:
            ValueError: the width does not divide into the heads.
        """

    def plan(self, device: str) -> list[str]:
        """What computes the sum in which case and why the others do not, a line each, for `core explain`.

        Args:
            device: type of the device it would run on.
        """
        return []


class AttentionLayer(Protocol):
    """The module that `Attention.build` returns."""

    def forward(
        self,
        x_BQD: Tensor,
        mask: Mask | None = None,
        *,
        context_BSD: Tensor | None = None,
        bias: Tensor | None = None,
        real_BS: Tensor | None = None,
        layout: Layout | None = None,
    ) -> Tensor:
        """Tokens after attention, (B, Q, D).

        Args:
            x_BQD: queries; also the sources where `context_BSD` is None.
            mask: what the data imposes on pairs; joined with the layer's own mask slot by `&`.
            context_BSD: sources of cross attention.
            bias: added to the logits, broadcastable to (B, H, Q, S); refused by layers without logits.
            real_BS: bool, True where a source token is real, False where it is padding.
            layout: what masks may have to know of the tokens; the layer fills in sizes and `real_BS`.
        """
