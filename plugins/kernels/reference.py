"""The explicit matrix: the truth that every other kernel is compared with.

B batch, H heads, Q query and S source tokens, K key width, V value width.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor, nn

from core.kinds.kernel import Kernel, Request
from core.kinds.mask import Mask
from core.params import params


@params
class Reference(Kernel):
    """Forms the logits, weighs them, sums: any mask, any sparsifier, any dtype, O(Q * S) memory.

    Source: Vaswani et al. 2017, eq. 1. The one kernel that serves sparsifiers which need their logits.
    """

    priority: ClassVar[int] = 100

    def refuses(self, request: Request) -> str | None:
        return None

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
        k_BHSK, v_BHSV = without_padding(k_BHSK, v_BHSV, real_BS)
        logits_BHQS = q_BHQK @ k_BHSK.transpose(-1, -2) / math.sqrt(q_BHQK.shape[-1])
        if bias is not None:
            logits_BHQS = logits_BHQS + bias.to(logits_BHQS.dtype)
        visible = visible_pairs(mask, q_BHQK.shape[2], k_BHSK.shape[2], q_BHQK.device)
        if real_BS is not None:
            visible = visible & real_BS[:, None, None, :]
        return sparsifier(logits_BHQS, visible) @ v_BHSV


def without_padding(k_BHSK: Tensor, v_BHSV: Tensor, real_BS: Tensor | None) -> tuple[Tensor, Tensor]:
    """Keys and values with zeros on padding, since a weight of 0 times NaN is NaN.

    What a mask hides is not touched, as another query may see it: hidden pairs leak nothing as long as the source is
    finite.
    """
    if real_BS is None:
        return k_BHSK, v_BHSV
    real_B1S1 = real_BS[:, None, :, None]
    return torch.where(real_B1S1, k_BHSK, 0.0), torch.where(real_B1S1, v_BHSV, 0.0)


def visible_pairs(mask: Mask, queries: int, sources: int, device: torch.device) -> Tensor:
    """The whole rule with an axis for the heads, (1, 1, Q, S), or (B, 1, Q, S) where samples differ."""
    visible = mask.dense(queries, sources, device)
    return visible[None, None] if visible.ndim == 2 else visible[:, None]
