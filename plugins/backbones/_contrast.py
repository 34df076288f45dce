"""Attention against a second state of the same tokens: what both states attend to cancels.

B sets, N tokens, D width, H heads, K head width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.nn.difference import Lambda
from core.nn.overflow import projected, saturated
from plugins.backbones._affine import Affine


class Contrast(nn.Module):
    """A = softmax(Q_1 K_1^T / sqrt K) - lambda softmax(Q_2 K_2^T / sqrt K), out = W_o (1 - lambda_0) RMSNorm(A v).

    Q_1, K_1 and the values come from the tokens, Q_2 and K_2 from the same tokens in another state: here a gene of the
    perturbed cell and the same gene of its control cell. So nothing of the other state is read; it tells what not to
    attend to. The differential layers of scDFM that are told the control; lambda as of Ye et al. 2024,
    arXiv:2410.05258. No biases. As A v is linear in A, both maps go through fused attention, and none is ever formed.

    Args:
        initial: lambda_0.

    Raises:
        ValueError: the width does not divide into the heads.
    """

    def __init__(self, width: int, heads: int, initial: float) -> None:
        super().__init__()
        if width % heads:
            fits = ", ".join(str(h) for h in range(1, width + 1) if width % h == 0)
            raise ValueError(f"a width of {width} does not divide into {heads} heads; frame.heads may be {fits}")
        self.heads, self.initial = heads, initial
        self.query_1, self.key_1, self.value, self.query_2, self.key_2, self.output = (
            Affine(width, width, bias=False) for _ in range(6)
        )
        self.norm = nn.RMSNorm(width // heads, eps=1e-5)
        self.share = Lambda(width // heads, initial)

    def forward(self, x_BND: Tensor, other_BND: Tensor, real_BN: Tensor | None) -> Tensor:
        """Tokens after attention, (B, N, D).

        Args:
            x_BND: tokens.
            other_BND: the same tokens in the other state.
            real_BN: False on padding; None: all are real.
        """
        seen_B11N = None
        if real_BN is not None:
            # In a set without a real token all are seen, as nobody reads what comes of it, and a softmax over nothing
            # is NaN in some kernels.
            seen_B11N = (real_BN | ~real_BN.any(1, keepdim=True))[:, None, None]
        v_BHNK = self._split(self.value(x_BND))
        first_BHNK = F.scaled_dot_product_attention(
            self._split(self.query_1(x_BND)), self._split(self.key_1(x_BND)), v_BHNK, attn_mask=seen_B11N
        )
        second_BHNK = F.scaled_dot_product_attention(
            self._split(self.query_2(other_BND)), self._split(self.key_2(other_BND)), v_BHNK, attn_mask=seen_B11N
        )
        share = self.share().to(second_BHNK.dtype)
        read_BHNK = self.norm(saturated(torch.addcmul(first_BHNK, second_BHNK, -share))) * (1.0 - self.initial)
        return projected(self.output, read_BHNK.transpose(1, 2).flatten(2)).to(x_BND.dtype)

    def _split(self, x_BND: Tensor) -> Tensor:
        return x_BND.unflatten(-1, (self.heads, -1)).transpose(1, 2)
