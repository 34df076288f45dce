"""One call of an attention over pairs, as all its kernels want it: positions told, anchors in front, padding blank.

B batch, Q query and S source tokens, A anchors in front of them, D width, H heads, K head width.
"""

from __future__ import annotations

from collections.abc import Callable

import attrs
import torch
from torch import Tensor, nn

from core.kinds.kernel import Kernel, Request
from core.kinds.mask import Layout, Mask
from core.kinds.position import Places, PositionLayer, sides
from core.kinds.sparsifier import Sparsifier
from core.nn.overflow import held, saturated
from core.registry import installed
from core.train.streams import Stochastic

TYPICAL = 1024
"""tokens of a call that `core explain` asks about"""


@attrs.frozen(kw_only=True, eq=False)
class Call:
    """What the layer projects and what its kernel is given."""

    x_BQD: Tensor
    """queries, places told"""
    sources_BSD: Tensor
    """anchors, then sources with their places told, blank on padding"""
    mask: Mask
    real_BS: Tensor | None
    bias: Tensor | None
    anchors: int
    queries: Places
    sources: Places

    def kernel(self, asked: Kernel, sparsifier: Sparsifier) -> Kernel:
        """The kernel that serves this call.

        Raises:
            ValueError: the one that was asked cannot, with its reason.
        """
        request = Request(
            fused=sparsifier.fused,
            form=self.mask.form,
            padded=self.real_BS is not None,
            bias=self.bias is not None,
            device=self.x_BQD.device.type,
        )
        try:
            return asked.plan(request)[0]
        except ValueError as error:
            raise ValueError(f"{error}; choose kernel = auto, which finds one that can") from None

    def attend(self, kernel: Kernel, q_BHQK: Tensor, k_BHSK: Tensor, v_BHSV: Tensor, sparsifier: nn.Module) -> Tensor:
        """What the kernel reads for each query, (B, H, Q, V)."""

        def read(q_BHQK: Tensor, k_BHSK: Tensor, v_BHSV: Tensor) -> Tensor:
            return kernel.attend(q_BHQK, k_BHSK, v_BHSV, self.mask, sparsifier, real_BS=self.real_BS, bias=self.bias)

        if getattr(sparsifier, "fused", False) and q_BHQK.device.type != "cpu":
            return saturated(read(q_BHQK, k_BHSK, v_BHSV))  # PyTorch's kernels sum in float32 there
        return held(read, q_BHQK, k_BHSK, v_BHSV)

    def turned(self, position: nn.Module, q_BHQK: Tensor, k_BHSK: Tensor) -> tuple[Tensor, Tensor]:
        """Queries and keys after the position's `heads`; anchors have no place and stay."""
        heads: Callable[[Tensor, Places], Tensor] = position.heads  # type: ignore[assignment]
        q_BHQK = heads(q_BHQK, self.queries)
        if not self.anchors:
            return q_BHQK, heads(k_BHSK, self.sources)
        front, rest = k_BHSK[:, :, : self.anchors], k_BHSK[:, :, self.anchors :]
        return q_BHQK, torch.cat([front, heads(rest, self.sources)], dim=2)


class Chance(Stochastic):
    """What a mask that draws asks in training, on the layer's own stream."""

    def draw(self) -> float:
        """A number from U[0, 1)."""
        return float(self.uniform((1,), torch.empty(0, device="cpu"), over="pass"))


def prepare(
    layer: nn.Module,
    mask: Mask,
    x_BQD: Tensor,
    context_BSD: Tensor | None,
    bias: Tensor | None,
    real_BS: Tensor | None,
    layout: Layout | None,
) -> Call:
    """Put a call together from a layer's `position`, `anchor` (or None) and `chance`.

    Args:
        layer: the attention layer; its `plugin` has the slot `mask`.
        mask: the plugin's mask and the data's, joined.
        x_BQD: queries; also the sources where `context_BSD` is None.
        context_BSD: sources of cross attention.
        bias: for the logits of the sources without anchors.
        real_BS: False on source tokens that are padding.
        layout: as given to the layer.

    Raises:
        ValueError: the layout lacks what the mask or the position must know, or mask and anchor piece disagree about
            the number of anchors.
    """
    layout = layout or Layout()
    x_BQD, sources_BSD = without_padding(x_BQD, context_BSD, real_BS, layout)
    anchor: nn.Module | None = layer.anchor  # type: ignore[assignment]
    count: int = 0 if anchor is None else anchor.count  # type: ignore[assignment]
    told = attrs.evolve(
        layout,
        queries=x_BQD.shape[1],
        sources=sources_BSD.shape[1],
        apart=context_BSD is not None,
        real_BQ=real_BS if context_BSD is None else layout.real_BQ,
        real_BS=real_BS,
        chance=layer.chance.draw if layer.training and not x_BQD.is_meta else None,  # type: ignore[arg-type, union-attr]
    )
    if count and layout.anchors:
        raise ValueError(f"the sources have {layout.anchors} anchors in front already; choose anchor = none")
    shown: int | None = layer.plugin.mask.own_anchors  # type: ignore[assignment, union-attr]
    if count and shown not in (None, count):
        raise ValueError(
            f"the mask shows {shown} anchors and the anchor piece makes {count}; "
            f"set --mask.anchors {count}, or --anchor.count {shown}"
        )
    position: PositionLayer = layer.position  # type: ignore[assignment]
    queries, sources = sides(told)
    placed_BQD = position.tokens(x_BQD, queries)
    if context_BSD is None:
        placed_BSD = placed_BQD
    elif layout.anchors:
        front, rest = sources_BSD[:, : layout.anchors], sources_BSD[:, layout.anchors :]
        placed_BSD = torch.cat([front, position.tokens(rest, sources)], dim=1)
    else:
        placed_BSD = position.tokens(sources_BSD, sources)
    if anchor is not None:
        if sources_BSD.shape[1] == 0 and real_BS is None:
            real_BS = sources_BSD.new_zeros(len(x_BQD), 0, dtype=torch.bool)  # anchors of nothing are hidden as well
        # Made of the bare sources: an anchor stands for all of them and has no place.
        placed_BSD = torch.cat([anchor(sources_BSD, real_BS), placed_BSD], dim=1)
        told = attrs.evolve(told, sources=told.sources + count, anchors=count)
        if real_BS is not None:
            real_BS = torch.cat([real_BS.any(1, keepdim=True).expand(-1, count), real_BS], dim=1)
            told = attrs.evolve(told, real_BS=real_BS)
        if bias is not None:
            bias = torch.nn.functional.pad(bias.expand(*bias.shape[:-1], placed_BSD.shape[1] - count), (count, 0))
    return Call(
        x_BQD=placed_BQD,
        sources_BSD=placed_BSD,
        mask=mask.on(told),
        real_BS=real_BS,
        bias=bias,
        anchors=told.anchors,
        queries=queries,
        sources=sources,
    )


def plan(kernel: Kernel, mask: Mask, sparsifier: Sparsifier, device: str) -> list[str]:
    """Which kernel serves this mask and sparsifier, whole, padded and with a bias, and what the others say."""
    lines = []
    try:
        form = mask.on(Layout(queries=TYPICAL, sources=TYPICAL, apart=False)).form
    except ValueError as error:
        try:
            form = mask.on(Layout.typical(TYPICAL, None)).form
        except ValueError:
            return [f"decided with the data, as the mask must know more: {error}"]
        tokens = f"{TYPICAL:,} tokens in a plane, of two equal sides"
        lines.append(f"decided with the data, as the mask must know more; for {tokens}:")
    for case, padded, biased in (
        ("nothing padded", False, False),
        ("padded", True, False),
        ("with a bias", False, True),
    ):
        request = Request(fused=sparsifier.fused, form=form, padded=padded, bias=biased, device=device)
        try:
            chosen, others = kernel.plan(request)
        except ValueError as error:
            lines.append(f"{case}: none; {error}")
        else:
            lines.append("; ".join([f"{case}: {_name(chosen)}", *others]))
    return lines


def _name(kernel: Kernel) -> str:
    """What a user types to get this kernel."""
    target = f"{type(kernel).__module__}:{type(kernel).__qualname__}"
    return next((row.name for row in installed().rows("kernel") if row.target == target), type(kernel).__qualname__)


def without_padding(
    x_BQD: Tensor, context_BSD: Tensor | None, real_BS: Tensor | None, layout: Layout | None = None
) -> tuple[Tensor, Tensor]:
    """Queries and sources, with zeros where they are padding; of queries beside a context only the layout knows.

    Done before the projections: a gradient of 0 times NaN would reach their weights otherwise.
    """
    sources_BSD = x_BQD if context_BSD is None else context_BSD
    if real_BS is not None:
        sources_BSD = torch.where(real_BS[..., None], sources_BSD, 0.0)
    if context_BSD is None:
        return sources_BSD, sources_BSD
    real_BQ = None if layout is None else layout.real_BQ
    return (x_BQD if real_BQ is None else torch.where(real_BQ[..., None], x_BQD, 0.0)), sources_BSD
