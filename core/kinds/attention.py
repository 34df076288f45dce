"""Attention: tokens read from each other.

B batch, Q query and S source tokens, D width.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from core.kinds.plugin import Plugin
from core.kinds.size import counted_flops, counted_params

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
    seed whatever else the layer owns; gradients of tokens agree with finite differences; a state loads into another
    layer; `params` and `flops` are what a count of the built layer gives.
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

    def params(self, width: int) -> int:
        """How many parameters the layer has that `build(width)` makes; a built-in piece says so in closed form."""
        return counted_params(lambda: self.build(width))

    def flops(self, width: int, queries: int, sources: int | None = None) -> int:
        """FLOPs of the matrix products of one forward pass in evaluation over one set; a multiply-add counts twice.

        Pairs are counted as the kernel computes them, hidden ones too where it forms their products. Nothing is counted
        for what is no product: softmax and its kin, norms, the search of neighbours.

        Args:
            width: of the tokens.
            queries: tokens that read.
            sources: tokens of a context that they read; None: the queries are the sources, and where a layer tells two
                sides of a sequence apart, the first side is the first half.
        """

        def run() -> object:
            layer = self.build(width).eval()
            return layer(**_typical(width, queries, sources))

        return counted_flops(run)

    def plan(self, device: str) -> list[str]:
        """What computes the sum in which case and why the others do not, a line each, for `core explain`.

        Args:
            device: type of the device it would run on.
        """
        return []


def _typical(width: int, queries: int, sources: int | None) -> dict[str, Any]:
    """Arguments of one call of a layer on the meta device, with every fact that a mask or a position may ask for."""
    import torch

    from core.kinds.mask import Layout

    x_1QD, context_1SD = (None if n is None else torch.empty(1, n, width, device="meta") for n in (queries, sources))
    return {"x_BQD": x_1QD, "context_BSD": context_1SD, "layout": Layout.typical(queries, sources)}


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
