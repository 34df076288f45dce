"""Softmax attention in clusters of queries that share most of their sources, some clusters at a time.

T queries and R sources of all samples, N clusters of q queries and U sources, H heads, K key and V value width, c
clusters at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, final

import torch
import torch.nn.functional as F
from torch import Tensor

ROOM = 1 << 22
"""numbers of keys and values that are copied at a time"""


@final
class Clustered(torch.autograd.Function):
    """Every query reads those sources of its cluster that it sees; one that sees none reads zeros.

    A source is copied for every cluster that it is in, nine times where each of many queries in space sees its 64
    nearest. Copies are made for some clusters at a time, and again for the gradients, as FlashAttention makes weights
    again (Dao et al. 2022, arXiv:2205.14135): memory is that of queries, keys and values alone.
    """

    @staticmethod
    @torch.amp.custom_fwd(device_type="cpu")
    def forward(
        ctx: Any,
        q_THK: Tensor,
        k_RHK: Tensor,
        v_RHV: Tensor,
        query_Nq: Tensor,
        source_NU: Tensor,
        visible_NqU: Tensor,
    ) -> Tensor:
        """What each query of each cluster reads, (N, q, H, V)."""
        ctx.save_for_backward(q_THK, k_RHK, v_RHV, query_Nq, source_NU, visible_NqU)
        out_NqHV = v_RHV.new_empty(*query_Nq.shape, *v_RHV.shape[1:])
        for part, read in _parts(q_THK, k_RHK, v_RHV, query_Nq, source_NU):
            out_NqHV[part] = _attended(read, visible_NqU[part])
        return out_NqHV

    @staticmethod
    @torch.amp.custom_bwd(device_type="cpu")
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, d_out_NqHV: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of queries, keys and values; sums over clusters are in single precision at least."""
        q_THK, k_RHK, v_RHV, query_Nq, source_NU, visible_NqU = ctx.saved_tensors
        sums = [torch.zeros(t.shape, dtype=torch.promote_types(t.dtype, torch.float32)) for t in (q_THK, k_RHK, v_RHV)]
        for part, read in _parts(q_THK, k_RHK, v_RHV, query_Nq, source_NU):
            with torch.enable_grad():
                leaves = [t.requires_grad_() for t in read]
                out_cqHV = _attended(leaves, visible_NqU[part])
            found = torch.autograd.grad(out_cqHV, leaves, d_out_NqHV[part])
            for total, rows, d in zip(sums, (query_Nq, source_NU, source_NU), found, strict=True):
                total.flatten(1).index_add_(0, rows[part].flatten(), d.flatten(2).flatten(0, 1).to(total.dtype))
        d_q_THK, d_k_RHK, d_v_RHV = sums
        return d_q_THK.to(q_THK.dtype), d_k_RHK.to(k_RHK.dtype), d_v_RHV.to(v_RHV.dtype), None, None, None


def _parts(
    q_THK: Tensor, k_RHK: Tensor, v_RHV: Tensor, query_Nq: Tensor, source_NU: Tensor
) -> Iterator[tuple[slice, list[Tensor]]]:
    """Some clusters after others: which, and their queries (c, q, H, K), keys and values (c, U, H, K or V)."""
    each = max(1, ROOM // max(1, source_NU.shape[1] * (k_RHK[0].numel() + v_RHV[0].numel())))
    for first in range(0, len(source_NU), each):
        part = slice(first, first + each)
        yield (
            part,
            [_rows(q_THK, query_Nq[part]), _rows(k_RHK, source_NU[part]), _rows(v_RHV, source_NU[part])],
        )


def _rows(x_THK: Tensor, index_cq: Tensor) -> Tensor:
    return F.embedding(index_cq, x_THK.flatten(1)).unflatten(-1, x_THK.shape[1:])


def _attended(read: list[Tensor], visible_cqU: Tensor) -> Tensor:
    """(c, q, H, V)."""
    q_cHqK, k_cHUK, v_cHUV = (t.transpose(1, 2) for t in read)
    return F.scaled_dot_product_attention(q_cHqK, k_cHUK, v_cHUV, attn_mask=visible_cqU[:, None]).transpose(1, 2)
