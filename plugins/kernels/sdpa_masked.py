"""PyTorch's fused attention with a mask tensor.

B batch, H heads, Q query and S source tokens, K key width, V value width.
"""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.kinds.kernel import Kernel, Request
from core.kinds.mask import Mask
from core.params import params
from plugins.kernels.reference import visible_pairs, without_padding


@params
class SdpaMasked(Kernel):
    """Softmax attention under any mask, padding and bias, fused.

    Padding alone is a mask of B x S, so memory stays O(Q + S); a rule over pairs adds one Q x S matrix that all heads
    share (B of them where samples differ), and a bias what the bias costs. A bias that wants a gradient makes PyTorch
    form the logits. A row that sees nothing is zero, values and gradients, in every backend of PyTorch since 2.5
    (pytorch/pytorch#131060).

    Source: `torch.nn.functional.scaled_dot_product_attention` with `attn_mask`.
    """

    priority: ClassVar[int] = 20

    def refuses(self, request: Request) -> str | None:
        return None if request.fused else "sdpa_masked computes softmax alone, and this sparsifier needs the logits"

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
        visible = None if real_BS is None else real_BS[:, None, None, :]
        if mask.form != "full":
            pairs = visible_pairs(mask, q_BHQK.shape[2], k_BHSK.shape[2], q_BHQK.device)
            visible = pairs if visible is None else visible & pairs
        attn_mask = visible
        if bias is not None:
            bias = bias.to(q_BHQK.dtype)
            attn_mask = bias if visible is None else torch.where(visible, bias, float("-inf"))
        return F.scaled_dot_product_attention(q_BHQK, k_BHSK, v_BHSV, attn_mask=attn_mask)
