"""Differential attention: one map of weights less another, so that what both see cancels.

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
from core.nn.difference import Lambda
from core.nn.overflow import projected, saturated
from core.params import knob, params, slot
from core.train.streams import Dropout
from plugins.attention import _cost
from plugins.attention._call import Call, Chance, plan, prepare
from plugins.attention._heads import HeadNorm, bounded, head_width


@params
class Differential(Attention):
    """Multi-head attention by A = W_1 - lambda W_2, two maps of weights with queries and keys of their own.

    out = W_o (1 - lambda_0) RMSNorm(A v), a norm over each head's width, and
    lambda = exp(a_1 . b_1) - exp(a_2 . b_2) + lambda_0 with learned a, b of the head width (Ye et al. 2024,
    arXiv:2410.05258, eq. 1 to 3). Each row of A sums to 1 - lambda. As A v is linear in A, the kernel is called once a
    map, and no map is ever formed: any mask, sparsifier and kernel serves.

    Both maps have queries and keys of the whole width, as in the differential layers of scDFM; the paper halves them,
    so that the layer is as large as plain attention.
    """

    heads: int = knob(8, "number of heads; must divide the width", ge=1)
    initial: float = knob(0.8, "lambda_0: at first about the share of the second map that is taken off", ge=0.0, lt=1.0)
    qk_norm: bool = knob(False, "RMS-normalise queries and keys within a head", source="Henry et al. 2020")
    dropout: float = knob(0.0, "share of output channels dropped in training", ge=0.0, lt=1.0)
    mask: Mask = slot("full", "which pairs may see each other")
    sparsifier: Sparsifier = slot("softmax", "turns logits into weights, in both maps")
    gate: Gate = slot("none", "scales what a head read")
    position: Position = slot("none", "how it knows where tokens are")
    anchor: Anchor | None = slot(None, "extra keys that every query sees; none: no such keys")
    kernel: Kernel = slot("auto", "how the sums are computed")

    def build(self, width: int) -> DifferentialLayer:
        return DifferentialLayer(self, width)

    def params(self, width: int) -> int:
        # Four vectors of lambda, the norm of what was read, and those of queries and keys, all of the head width.
        return _cost.params(self, width, maps=2) + (7 if self.qk_norm else 5) * head_width(width, self.heads)

    def flops(self, width: int, queries: int, sources: int | None = None) -> int:
        return _cost.flops(self, width, queries, sources, maps=2)

    def plan(self, device: str) -> list[str]:
        return plan(self.kernel, self.mask, self.sparsifier, device)


class DifferentialLayer(nn.Module):
    """The module of `Differential`."""

    def __init__(self, plugin: Differential, width: int) -> None:
        super().__init__()
        head = head_width(width, plugin.heads)
        self.plugin = plugin
        self.query_1, self.key_1, self.query_2, self.key_2 = (nn.Linear(width, width) for _ in range(4))
        self.value = nn.Linear(width, width)
        self.output = nn.Linear(width, width)
        self.query_norm: nn.Module = HeadNorm(head) if plugin.qk_norm else nn.Identity()
        self.key_norm: nn.Module = HeadNorm(head) if plugin.qk_norm else nn.Identity()
        self.norm = HeadNorm(head)
        self.share = Lambda(head, plugin.initial)
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
        """Tokens after attention, (B, Q, D), of the dtype of `x_BQD`. Arguments and errors as of `pairwise`; the bias
        is added to the logits of both maps."""
        joined = self.plugin.mask if mask is None else self.plugin.mask & mask
        call = prepare(self, joined, x_BQD, context_BSD, bias, real_BS, layout)
        v_BHSK = self._split(projected(self.value, call.sources_BSD))
        read_BHQK = self._read(call, v_BHSK)
        out_BHQK = self.norm(read_BHQK) * (1.0 - self.plugin.initial)
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
        """A, (B, H, Q, S), for figures: signed, a row sums to 1 - lambda. Arguments as in `forward`."""
        joined = self.plugin.mask if mask is None else self.plugin.mask & mask
        call = prepare(self, joined, x_BQD, context_BSD, bias, real_BS, layout)
        v_BHSK = self._split(self.value(call.sources_BSD))
        unit_SS = torch.eye(v_BHSK.shape[2], dtype=v_BHSK.dtype, device=v_BHSK.device)
        return self._read(call, unit_SS.expand(*v_BHSK.shape[:2], -1, -1))

    def _read(self, call: Call, v_BHSV: Tensor) -> Tensor:
        """A v, each map through the kernel."""
        how = self.plugin.heads, self.plugin.qk_norm
        kernel, maps = call.kernel(self.plugin.kernel, self.plugin.sparsifier), []
        for query, key in ((self.query_1, self.key_1), (self.query_2, self.key_2)):
            q_BHQK = self.query_norm(self._split(bounded(query, call.x_BQD, *how)))
            k_BHSK = self.key_norm(self._split(bounded(key, call.sources_BSD, *how)))
            q_BHQK, k_BHSK = call.turned(self.position, q_BHQK, k_BHSK)
            maps.append(call.attend(kernel, q_BHQK, k_BHSK, v_BHSV, self.sparsifier))
        return saturated(torch.addcmul(maps[0], maps[1], -self.share().to(maps[1].dtype)))

    def _split(self, x_BND: Tensor) -> Tensor:
        return x_BND.unflatten(-1, (self.plugin.heads, -1)).transpose(1, 2)
