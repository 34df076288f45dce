"""How a width divides into heads, and the norm within one. N tokens, H heads, K head width."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.nn.overflow import projected


class HeadNorm(nn.Module):
    """RMS norm over the head width with one learned scale a channel, shared by the heads.

    Computed in float32 or wider and returned in the dtype it was given (Zhang and Sennrich 2019, eq. 4).
    """

    def __init__(self, head_width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(head_width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Scales start at 1."""
        nn.init.ones_(self.weight)

    def forward(self, x_BNHK: Tensor) -> Tensor:
        wide = torch.promote_types(x_BNHK.dtype, torch.float32)
        return F.rms_norm(x_BNHK.to(wide), self.weight.shape, self.weight.to(wide), eps=1e-6).to(x_BNHK.dtype)


def bounded(project: nn.Module, x_BND: Tensor, heads: int, normed: bool) -> Tensor:
    """Projected queries or keys, held where their products would overflow and no norm follows.

    A logit is a sum of K products, so channels within sqrt(max / K) / 2 keep it finite; in float32 and bfloat16 with
    K = 64 that is 1e18. Channels of a healthy model pass as they are; one beyond the bound ends there and has no
    gradient, so that the logit is huge and no NaN. Tokens beyond about 1e36 overflow in the projection itself. float16
    is saturated at its own ends, as kernels sum its products in float32.
    """
    out_BND = projected(project, x_BND)
    if normed or out_BND.dtype == torch.float16:
        return out_BND
    end = math.sqrt(torch.finfo(out_BND.dtype).max * heads / out_BND.shape[-1]) / 2
    return F.hardtanh(out_BND, -end, end, inplace=True)  # which keeps no copy for its backward pass, as clamp does


def head_width(width: int, heads: int) -> int:
    """Channels of one head.

    Raises:
        ValueError: the width does not divide into the heads.
    """
    if width % heads:
        fits = ", ".join(str(h) for h in range(1, width + 1) if width % h == 0)
        raise ValueError(
            f"a width of {width} does not divide into {heads} heads; heads may be {fits}, or the "
            f"width a multiple of {heads}"
        )
    return width // heads
