"""Pairwise attention: each query weighs every source that it may see.

B batch, Q query and S source tokens, N either, D width, H heads, K head width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from core.kinds.anchor import Anchor
from core.kinds.attention import Attention
from core.kinds.gate import Gate
from core.kinds.kernel import Kernel
from core.kinds.mask import Layout, Mask
from core.kinds.position import Position
from core.kinds.sparsifier import Sparsifier
from core.nn.overflow import projected
from core.params import knob, params, slot
from core.train.streams import Dropout
from plugins.attention import _cost
from plugins.attention._call import Call, Chance, plan, prepare
from plugins.attention._heads import HeadNorm, bounded, head_width


@params
class Pairwise(Attention):
    """Multi-head attention by weights over pairs of tokens, self or cross.

    out = W_o [gate(x) * sparsify(q k^T / sqrt(K) + bias, visible) v] (Vaswani et al. 2017, eq. 1; the gate: Qiu et al.
    2025, arXiv:2505.06708, position G1). Without a position, a mask or a bias the sources are a set. Dropout acts on
    the projected output, not on the weights, so that it never blocks a fused kernel.
    """

    heads: int = knob(8, "number of heads; must divide the width", ge=1)
    qk_norm: bool = knob(
        True,
        "RMS-normalise queries and keys within a head, which bounds the logits",
        source="Henry et al. 2020, arXiv:2010.04245; Zhang and Sennrich 2019, arXiv:1910.07467",
    )
    dropout: float = knob(0.0, "share of output channels dropped in training", ge=0.0, lt=1.0)
    mask: Mask = slot("full", "which pairs may see each other")
    sparsifier: Sparsifier = slot("softmax", "turns logits into weights")
    gate: Gate = slot("none", "scales what a head read")
    position: Position = slot("none", "how it knows where tokens are")
    anchor: Anchor | None = slot(None, "extra keys that every query sees; none: no such keys")
    kernel: Kernel = slot("auto", "how the sum is computed")

    def build(self, width: int) -> PairwiseLayer:
        return PairwiseLayer(self, width)

    def params(self, width: int) -> int:
        norms = 2 * head_width(width, self.heads) if self.qk_norm else 0
        return _cost.params(self, width, maps=1) + norms

    def flops(self, width: int, queries: int, sources: int | None = None) -> int:
        return _cost.flops(self, width, queries, sources, maps=1)

    def plan(self, device: str) -> list[str]:
        return plan(self.kernel, self.mask, self.sparsifier, device)


class PairwiseLayer(nn.Module):
    """The module of `Pairwise`: four projections, two norms, and what the slots build."""

    def __init__(self, plugin: Pairwise, width: int) -> None:
        super().__init__()
        head = head_width(width, plugin.heads)
        self.plugin = plugin
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.output = nn.Linear(width, width)
        self.query_norm: nn.Module = HeadNorm(head) if plugin.qk_norm else nn.Identity()
        self.key_norm: nn.Module = HeadNorm(head) if plugin.qk_norm else nn.Identity()
        self.sparsifier = plugin.sparsifier.build(plugin.heads)
        self.gate = plugin.gate.build(width, plugin.heads, head)
        self.position = plugin.position.build(width, plugin.heads, head)
        self.anchor = None if plugin.anchor is None else plugin.anchor.build(width)
        self.dropout = Dropout(plugin.dropout)
        self.chance = Chance()

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
        """Tokens after attention, (B, Q, D), of the dtype of `x_BQD`.

        Args:
            x_BQD: queries; also the sources where `context_BSD` is None.
            mask: what the data imposes on pairs; joined with the plugin's own mask by `&`. The content of a token
                that it hides leaks nothing as long as it is finite.
            context_BSD: sources of cross attention.
            bias: added to the logits, broadcastable to (B, H, Q, S).
            real_BS: bool, False on source tokens that are padding, whatever they hold, NaN included. Pass None where
                nothing is padded: only then can a kernel without a mask be chosen, as looking would cost a
                synchronisation.
            layout: what masks may have to know of the tokens: sides, neighbours, anchors, padding of the queries of
                cross attention. Sizes and the padding of the sources are filled in here.

        Raises:
            ValueError: the chosen kernel cannot serve this mask, bias or padding; a mask lacks what it must know.
        """
        joined = self.plugin.mask if mask is None else self.plugin.mask & mask
        call = prepare(self, joined, x_BQD, context_BSD, bias, real_BS, layout)
        kernel = call.kernel(self.plugin.kernel, self.plugin.sparsifier)
        q_BHQK, k_BHSK, v_BHSK = self._project(call)
        out_BHQK = call.attend(kernel, q_BHQK, k_BHSK, v_BHSK, self.sparsifier)
        gated_BQHK = self.gate(out_BHQK, call.x_BQD).transpose(1, 2)
        return self.dropout(projected(self.output, gated_BQHK.flatten(2))).to(x_BQD.dtype)

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
        """The weights that `forward` gives the sources, (B, H, Q, S), for figures: O(Q * S) memory.

        They are what the kernel itself returns where the values are the unit vectors; a layer's anchors are the first
        sources. Arguments as in `forward`.
        """
        joined = self.plugin.mask if mask is None else self.plugin.mask & mask
        call = prepare(self, joined, x_BQD, context_BSD, bias, real_BS, layout)
        kernel = call.kernel(self.plugin.kernel, self.plugin.sparsifier)
        q_BHQK, k_BHSK, v_BHSK = self._project(call)
        unit_SS = torch.eye(v_BHSK.shape[2], dtype=v_BHSK.dtype, device=v_BHSK.device)
        unit_BHSS = unit_SS.expand(*v_BHSK.shape[:2], -1, -1)
        return call.attend(kernel, q_BHQK, k_BHSK, unit_BHSS, self.sparsifier)

    def _project(self, call: Call) -> tuple[Tensor, Tensor, Tensor]:
        count, normed = self.plugin.heads, self.plugin.qk_norm
        q_BQHK = bounded(self.query, call.x_BQD, count, normed).unflatten(-1, (count, -1))
        k_BSHK = bounded(self.key, call.sources_BSD, count, normed).unflatten(-1, (count, -1))
        v_BSHK = projected(self.value, call.sources_BSD).unflatten(-1, (count, -1))
        q_BQHK, k_BSHK = self.query_norm(q_BQHK), self.key_norm(k_BSHK)
        q_BHQK, k_BHSK = call.turned(self.position, q_BQHK.transpose(1, 2), k_BSHK.transpose(1, 2))
        return q_BHQK, k_BHSK, v_BSHK.transpose(1, 2)
