"""Windows in blocks: time and memory grow with the number of tokens, not its square.

B batch, H heads, Q query and S source tokens, K key width, V value width; A anchors, n blocks of b queries, C candidate
sources of a block: the anchors and a stretch that covers the windows of all its queries.
"""

from __future__ import annotations

import math
from typing import ClassVar

import attrs
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.kinds.kernel import Kernel, Request
from core.kinds.mask import Band, Mask
from core.params import params
from plugins.kernels.reference import without_padding

SMALLEST, LARGEST = 32, 128
"""queries of a block: fewer waste calls, more waste hidden pairs (tried at a window of 128: 64 to 128 are best)"""


@params
class BlockLocal(Kernel):
    """Attention under a mask of bounded width: each block of queries reads the sources near it and the anchors.

    O(Q * (window + anchors)) time and memory. Softmax goes through PyTorch's fused attention, blocks standing in the
    batch; other sparsifiers weigh the logits of their block. Any rule inside the mask's hull is kept, as `sees` is
    asked for every pair of a block. Blocks with sliding windows: Beltagy et al. 2020, arXiv:2004.05150, section 3.1.
    """

    priority: ClassVar[int] = 15

    def refuses(self, request: Request) -> str | None:
        if request.form != "window":
            return f"block_local serves masks of bounded width, and this one is of form {request.form}"
        return "block_local takes no bias: one over all pairs is Q x S already" if request.bias else None

    def pairs(self, request: Request, mask: Mask, queries: int, sources: int) -> int:
        if not queries or not sources or mask.hull is None:
            return 0
        cut = Cut.of(mask.hull, queries, sources)
        return cut.blocks * cut.block * (cut.anchors + cut.length)

    def attend(
        self,
        q_BHQK: Tensor,
        k_BHSK: Tensor,
        v_BHSV: Tensor,
        mask: Mask,
        sparsifier: nn.Module,
        *,
        real_BS: Tensor | None = None,
        bias: Tensor | None = None,
    ) -> Tensor:
        if mask.hull is None or mask.hull.window is None or bias is not None:
            raise ValueError("block_local serves masks of bounded width without a bias; choose kernel = auto")
        queries = q_BHQK.shape[2]
        if q_BHQK.numel() == 0 or k_BHSK.shape[2] == 0:
            return q_BHQK.new_zeros(*q_BHQK.shape[:3], v_BHSV.shape[-1])
        cut = Cut.of(mask.hull, queries, k_BHSK.shape[2])
        k_BHSK, v_BHSV = without_padding(k_BHSK, v_BHSV, real_BS)
        visible_BnbC = cut.visible(mask, real_BS, q_BHQK.device)
        q_BHnbK = F.pad(q_BHQK, (0, 0, 0, cut.blocks * cut.block - queries)).unflatten(2, (cut.blocks, cut.block))
        if getattr(sparsifier, "fused", False):
            out_BHnbV = _fused(q_BHnbK, k_BHSK, v_BHSV, visible_BnbC, cut)
        else:
            k_BHnCK, v_BHnCV = cut.candidates(k_BHSK, 2), cut.candidates(v_BHSV, 2)
            logits_BHnbC = q_BHnbK @ k_BHnCK.transpose(-1, -2) / math.sqrt(q_BHQK.shape[-1])
            weights_BHQC = sparsifier(logits_BHnbC.flatten(2, 3), visible_BnbC.flatten(1, 2)[:, None])
            out_BHnbV = weights_BHQC.unflatten(2, (cut.blocks, cut.block)) @ v_BHnCV
        return out_BHnbV.flatten(2, 3)[:, :, :queries]


def _fused(q_BHnbK: Tensor, k_BHSK: Tensor, v_BHSV: Tensor, visible_BnbC: Tensor, cut: Cut) -> Tensor:
    """Softmax of all blocks in one call, (B, H, n, b, V).

    The call takes two axes of a batch and lets the mask have one for all of the second. Where samples do not differ
    that is samples and heads; else the heads alone, and the first axis is blocks of samples.
    """
    samples = len(visible_BnbC) > 1
    axis, joined = (1, (0, 1)) if samples else (0, (1, 2))
    q, k, v = (
        t.flatten(*joined) for t in (q_BHnbK.movedim(2, axis), *(cut.candidates(t, axis) for t in (k_BHSK, v_BHSV)))
    )
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=visible_BnbC.flatten(0, 1)[:, None])
    return out.unflatten(joined[0], (len(q_BHnbK), -1)).movedim(axis, 2)


@attrs.frozen(kw_only=True)
class Cut:
    """How queries and sources are cut: block n reads the anchors, and behind them `length` sources from
    `start + n * block`, counted from the anchors' end; what lies outside of the sources is nothing."""

    queries: int
    anchors: int
    rest: int
    """sources behind the anchors"""
    block: int
    blocks: int
    start: int
    length: int

    @classmethod
    def of(cls, hull: Band, queries: int, sources: int) -> Cut:
        """The cut for a hull of bounded width; one block where that would read all sources anyway."""
        assert hull.before is not None
        assert hull.after is not None
        anchors = min(hull.anchors, sources)
        block = min(max(hull.before, SMALLEST), LARGEST, queries)
        start, length = hull.shift - anchors - hull.before, block + hull.before + hull.after
        if length >= sources - anchors:
            block, start, length = queries, 0, sources - anchors
        return cls(
            queries=queries,
            anchors=anchors,
            rest=sources - anchors,
            block=block,
            blocks=-(-queries // block),
            start=start,
            length=length,
        )

    def candidates(self, t_BHSK: Tensor, axis: int) -> Tensor:
        """The sources that each block reads, (B, H, C, K) with the blocks as another axis in front of `axis`."""
        end = self.start + (self.blocks - 1) * self.block + self.length
        low, high = (min(max(edge, 0), self.rest) for edge in (self.start, end))
        before = min(max(-self.start, 0), end - self.start)
        near_BHTK = t_BHSK[:, :, self.anchors + low : self.anchors + high]
        near_BHTK = F.pad(near_BHTK, (0, 0, before, end - self.start - before - (high - low)))
        near = near_BHTK.unfold(2, self.length, self.block).transpose(-1, -2).movedim(2, axis)
        if self.anchors == 0:
            return near
        front_BHnAK = t_BHSK[:, :, None, : self.anchors].expand(-1, -1, self.blocks, -1, -1)
        return torch.cat([front_BHnAK.movedim(2, axis), near], dim=3)

    def visible(self, mask: Mask, real_BS: Tensor | None, device: torch.device) -> Tensor:
        """Which candidates each query sees, (B, n, b, C), or (1, n, b, C) where samples do not differ."""
        first_n = torch.arange(self.blocks, device=device) * self.block
        q_nb1 = (first_n[:, None] + torch.arange(self.block, device=device))[..., None]
        near_nC = first_n[:, None] + torch.arange(self.start, self.start + self.length, device=device)
        there_nC = F.pad((near_nC >= 0) & (near_nC < self.rest), (self.anchors, 0), value=True)
        front_nA = torch.arange(self.anchors, device=device).expand(self.blocks, -1)
        s_nC = torch.cat([front_nA, near_nC.clamp(0, max(self.rest - 1, 0)) + self.anchors], dim=1)
        s_nC = s_nC.clamp(max=self.anchors + self.rest - 1)
        seen = mask.sees(q_nb1.clamp(max=self.queries - 1), s_nC[:, None, :]) & there_nC[:, None, :]
        seen_BnbC = seen.expand(*seen.shape[:-3], self.blocks, self.block, self.anchors + self.length)
        seen_BnbC = seen_BnbC if seen_BnbC.ndim == 4 else seen_BnbC[None]
        return seen_BnbC if real_BS is None else seen_BnbC & real_BS[:, s_nC][:, :, None, :]
