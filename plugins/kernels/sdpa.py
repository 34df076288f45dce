"""PyTorch's fused attention without a mask tensor.

B batch, H heads, Q query and S source tokens, K key width, V value width.
"""

from __future__ import annotations

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from core.kinds.kernel import Kernel, Request
from core.kinds.mask import Mask
from core.params import params


@params
class Sdpa(Kernel):
    """Softmax attention over all or all earlier sources, fused, O(Q + S) memory.

    Source: Dao et al. 2022, arXiv:2205.14135, as `torch.nn.functional.scaled_dot_product_attention`.
    """

    priority: ClassVar[int] = 10

    def refuses(self, request: Request) -> str | None:
        if not request.fused:
            return "sdpa computes softmax alone, and this sparsifier needs the logits"
        if request.form not in ("full", "causal"):
            return f"sdpa knows full and causal masks, and this one is of form {request.form}"
        if request.padded:
            return "sdpa takes no padding"
        return "sdpa takes no bias" if request.bias else None

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
        return F.scaled_dot_product_attention(q_BHQK, k_BHSK, v_BHSV, is_causal=mask.form == "causal")
