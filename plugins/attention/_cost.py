"""What an attention over pairs costs in closed form: its projections, its pairs, and what its slots add.

D width, H heads, K head width, Q queries, S sources, A anchors.
"""

from __future__ import annotations

from typing import Protocol

import torch

from core.kinds.anchor import Anchor
from core.kinds.gate import Gate
from core.kinds.kernel import Kernel, Request
from core.kinds.mask import Layout, Mask
from core.kinds.position import Position
from core.kinds.sparsifier import Sparsifier
from plugins.attention._heads import head_width


class OverPairs(Protocol):
    """The slots that attentions over pairs share."""

    @property
    def heads(self) -> int: ...
    @property
    def mask(self) -> Mask: ...
    @property
    def sparsifier(self) -> Sparsifier: ...
    @property
    def gate(self) -> Gate: ...
    @property
    def position(self) -> Position: ...
    @property
    def anchor(self) -> Anchor | None: ...
    @property
    def kernel(self) -> Kernel: ...


def params(plugin: OverPairs, width: int, maps: int) -> int:
    """Parameters: 2 (maps + 1) projections with their biases, and those of the slots."""
    head = head_width(width, plugin.heads)
    return (
        2 * (maps + 1) * width * (width + 1)
        + plugin.sparsifier.params(plugin.heads)
        + plugin.gate.params(width, plugin.heads, head)
        + plugin.position.params(width, plugin.heads, head)
        + (0 if plugin.anchor is None else plugin.anchor.params(width))
    )


def flops(plugin: OverPairs, width: int, queries: int, sources: int | None, maps: int) -> int:
    """FLOPs: 2 D^2 a projected token, 4 D a pair and map, and those of the slots.

    Raises:
        ValueError: the kernel refuses the mask and sparsifier, or the mask cannot serve such a call.
    """
    head = head_width(width, plugin.heads)
    read = queries if sources is None else sources
    anchors = made = 0
    if plugin.anchor is not None:
        with torch.device("meta"):
            anchors = int(plugin.anchor.build(width).count)  # type: ignore[arg-type]
        made = plugin.anchor.flops(width, read)
    mask = plugin.mask.on(Layout.typical(queries, sources, anchors))
    request = Request(fused=plugin.sparsifier.fused, form=mask.form, padded=False, bias=False)
    pairs = plugin.kernel.pairs(request, mask, queries, read + anchors)
    projected = (maps + 1) * (queries + read + anchors)  # of queries: each map's, and the output; of sources: + values
    placed = [queries] if sources is None else [queries, sources]
    return (
        2 * projected * width**2
        + 4 * maps * pairs * width
        + sum(plugin.position.flops(width, plugin.heads, head, tokens) for tokens in placed)
        + plugin.gate.flops(width, plugin.heads, head, queries)
        + made
    )
