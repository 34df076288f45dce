"""Two sides read each other, and never themselves.

B batch, N tokens of both sides in one sequence, I of them on the first side, D width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, cast

import attrs
import torch
from torch import Tensor, nn

from core.kinds.attention import Attention, NoWeights
from core.kinds.mask import Layout, Mask
from core.params import knob, params, slot


@params
class Bidirectional(Attention):
    """The first side reads the second and the second the first, each by an attention of its own (or one for both).

    For an enhancer and a promoter that lie one behind the other in one sequence, `layout.first` says where the second
    begins. A side's tokens never see each other, by construction: no mask over the whole sequence is formed, and
    neither side's padding moves the other's places. With a context there is one direction only, that of the first side.
    """

    pairs: ClassVar[bool] = False

    inner: Attention = slot("softmax", "how a side reads the other")
    shared: bool = knob(False, "one set of weights for both directions")

    def build(self, width: int) -> BidirectionalLayer:
        return BidirectionalLayer(self, width)

    def params(self, width: int) -> int:
        return (1 if self.shared else 2) * self.inner.params(width)

    def flops(self, width: int, queries: int, sources: int | None = None) -> int:
        if sources is not None:
            return self.inner.flops(width, queries, sources)
        first, second = queries // 2, queries - queries // 2
        return self.inner.flops(width, first, second) + self.inner.flops(width, second, first)

    def plan(self, device: str) -> list[str]:
        return self.inner.plan(device)


class BidirectionalLayer(nn.Module):
    """The module of `Bidirectional`: `there` reads for the first side, `back` for the second."""

    def __init__(self, plugin: Bidirectional, width: int) -> None:
        super().__init__()
        self.plugin = plugin
        self.there: nn.Module = plugin.inner.build(width)
        self.back: nn.Module | None = None if plugin.shared else plugin.inner.build(width)

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
        """Tokens after each side has read the other, (B, N, D), of the dtype of `x_BQD`.

        Args:
            x_BQD: the first side's tokens, then the second's; with a context, the first side's alone.
            mask: None or a mask of form "full" where both sides are given: which sees which is fixed.
            context_BSD: the second side, for one direction only.
            bias: added to the logits, broadcastable to (B, H, N, N); with a context to (B, H, Q, S).
            real_BS: bool, False on padding, of the whole sequence or of the context.
            layout: without a context, `first` is the number of the first side's tokens, padding included.

        Raises:
            ValueError: `first` is absent, differs between samples or lies outside the sequence; a mask over pairs.
        """
        if context_BSD is not None:
            return self.there(x_BQD, mask, context_BSD=context_BSD, bias=bias, real_BS=real_BS, layout=layout)
        if mask is not None and mask.form != "full":
            raise ValueError(
                f"bidirectional attention fixes who sees whom, and the mask is of form {mask.form}: give its inner "
                "attention a mask instead"
            )
        first = _first(layout, x_BQD.shape[1])
        ends = slice(0, first), slice(first, x_BQD.shape[1])
        outs = []
        for reader, (own, other) in zip((self.there, self.back or self.there), (ends, ends[::-1]), strict=True):
            outs.append(
                reader(
                    x_BQD[:, own],
                    context_BSD=x_BQD[:, other],
                    bias=None if bias is None else _cut(bias, own, other),
                    real_BS=None if real_BS is None else real_BS[:, other],
                    layout=_seen(cast(Layout, layout), real_BS, own, other, own.start == 0),
                )
            )
        return torch.cat(outs, dim=1)

    def weights(
        self,
        x_BQD: Tensor,
        mask: Mask | None = None,
        *,
        context_BSD: Tensor | None = None,
        bias: Tensor | None = None,
        real_BS: Tensor | None = None,
        layout: Layout | None = None,
    ) -> Tensor:
        """The weights of one direction, with a context; arguments as in `forward`.

        Raises:
            NoWeights: both sides were given, whose two matrices have no common shape; or the inner attention has none.
        """
        if context_BSD is None:
            raise NoWeights("two directions have two matrices: give the second side as context to see one of them")
        shown: Callable[..., Tensor] = self.there.weights  # type: ignore[assignment]
        return shown(x_BQD, mask, context_BSD=context_BSD, bias=bias, real_BS=real_BS, layout=layout)


def _first(layout: Layout | None, tokens: int) -> int:
    first = None if layout is None else layout.first
    if not isinstance(first, int):
        raise ValueError(
            "bidirectional attention is for two sides in one sequence, and these tokens have one side; in code, "
            "layout = Layout(first=...) is one number for the batch: how many tokens the first has, padding included"
        )
    if not 0 <= first <= tokens:
        raise ValueError(f"layout.first = {first} is no place in a sequence of {tokens} tokens")
    return first


def _cut(bias: Tensor, own: slice, other: slice) -> Tensor:
    """The part of a bias that concerns one direction; axes of size 1 stay."""
    rows = bias if bias.shape[-2] == 1 else bias[..., own, :]
    return rows if rows.shape[-1] == 1 else rows[..., other]


def _seen(layout: Layout, real_BN: Tensor | None, own: slice, other: slice, front: bool) -> Layout:
    """What one direction is told: places and padding of its two sides."""
    place = layout.place_BQP
    return attrs.evolve(
        layout,
        first=None,
        queries_first=front,
        real_BQ=None if real_BN is None else real_BN[:, own],
        real_BS=None,
        place_BQP=None if place is None else place[:, own],
        place_BSP=None if place is None else place[:, other],
        nearest_BQk=None,
    )
