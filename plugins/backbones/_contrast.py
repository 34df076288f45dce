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
from plugins.backbones._kept import Kept, once


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
            raise ValueError(
                f"a width of {width} does not divide into {heads} heads; frame.heads may be {fits}, or the "
                f"width a multiple of {heads}"
            )
        self.heads, self.initial = heads, initial
        self.query_1, self.key_1, self.value, self.query_2, self.key_2, self.output = (
            Affine(width, width, bias=False) for _ in range(6)
        )
        self.norm = nn.RMSNorm(width // heads, eps=1e-5)
        self.share = Lambda(width // heads, initial)

    def forward(self, x_BND: Tensor, other_BND: Tensor, real_BN: Tensor | None, kept: Kept | None = None) -> Tensor:
        """Tokens after attention, (B, N, D).

        Args:
            x_BND: tokens.
            other_BND: the same tokens in the other state.
            real_BN: False on padding; None: all are real.
            kept: of calls with the same other state.
        """
        read_BHNK = self._read(x_BND, other_BND, real_BN, self._split(self.value(x_BND)), kept)
        out_BHNK = self.norm(read_BHNK) * (1.0 - self.initial)
        return projected(self.output, out_BHNK.transpose(1, 2).flatten(2)).to(x_BND.dtype)

    def weights(self, x_BND: Tensor, other_BND: Tensor, real_BN: Tensor | None) -> Tensor:
        """A, (B, H, N, N), for figures: signed, a row sums to 1 - lambda. Arguments as in `forward`."""
        unit_NN = torch.eye(x_BND.shape[1], dtype=x_BND.dtype, device=x_BND.device)
        return self._read(x_BND, other_BND, real_BN, unit_NN.expand(len(x_BND), self.heads, -1, -1))

    def _read(
        self, x_BND: Tensor, other_BND: Tensor, real_BN: Tensor | None, v_BHNV: Tensor, kept: Kept | None = None
    ) -> Tensor:
        """A v, each map through fused attention."""
        seen_B11N = None
        if real_BN is not None:
            # In a set without a real token all are seen, as nobody reads what comes of it, and a softmax over nothing
            # is NaN in some kernels.
            seen_B11N = (real_BN | ~real_BN.any(1, keepdim=True))[:, None, None]
        q2_BND = once(kept, "query_2", lambda: self.query_2(other_BND))
        k2_BND = once(kept, "key_2", lambda: self.key_2(other_BND))
        maps = []
        for q_BND, k_BND in ((self.query_1(x_BND), self.key_1(x_BND)), (q2_BND, k2_BND)):
            q_BHNK, k_BHNK = self._split(q_BND), self._split(k_BND)
            maps.append(F.scaled_dot_product_attention(q_BHNK, k_BHNK, v_BHNV, attn_mask=seen_B11N))
        return saturated(torch.addcmul(maps[0], maps[1], -self.share().to(maps[1].dtype)))

    def _split(self, x_BND: Tensor) -> Tensor:
        return x_BND.unflatten(-1, (self.heads, -1)).transpose(1, 2)
