"""Softmax over the visible sources. B batch, H heads, Q query and S source tokens."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from core.kinds.sparsifier import Sparsifier
from core.params import params


@params
class Softmax(Sparsifier):
    """w_s = exp(l_s) / sum over visible s' of exp(l_s'): every visible source keeps some weight.

    Source: Vaswani et al. 2017, eq. 1; the factor 1 / sqrt(K) is the kernel's. Not to be confused with sparsemax or
    entmax, which give exact zeros to visible sources as well.
    """

    fused: ClassVar[bool] = True

    def build(self, heads: int) -> SoftmaxWeights:
        return SoftmaxWeights()

    def params(self, heads: int) -> int:
        return 0


class SoftmaxWeights(nn.Module):
    """Softmax whose hidden entries are exact zeros; it owns no parameters."""

    fused: ClassVar[bool] = True

    def forward(self, logits_BHQS: Tensor, visible: Tensor) -> Tensor:
        """Weights (B, H, Q, S) of the dtype of the logits; rows sum to 1, or are 0 where nothing is visible.

        Args:
            logits_BHQS: real numbers; what hidden entries hold does not matter. +inf is taken as the greatest finite
                number, and a row of -inf sees nothing.
            visible: bool, broadcastable to the logits, True where the source may be read.
        """
        weights_BHQS = torch.softmax(_Bounded.apply(logits_BHQS, visible), dim=-1)
        return weights_BHQS * _seeing(logits_BHQS, visible)


@torch.no_grad()
def _seeing(logits: Tensor, visible: Tensor) -> Tensor:
    """Rows with a visible logit above -inf, (..., Q, 1); NaN counts as one, so that it is seen further on."""
    if not logits.shape[-1]:
        return visible.any(-1, keepdim=True)
    return torch.where(visible, logits, -torch.inf).amax(-1, keepdim=True) != -torch.inf


class _Bounded(torch.autograd.Function):
    """Visible logits between the ends of the dtype, hidden ones below them all.

    The lowest finite number, not -inf: a row that sees nothing stays finite in the softmax and in its gradient. The
    gradient passes as it is: that of a weight of 0 is 0 already, and looking twice would cost more than the softmax.
    """

    @staticmethod
    def forward(logits: Tensor, visible: Tensor) -> Tensor:
        ends = torch.finfo(logits.dtype)
        return torch.where(visible, logits.clamp(0.5 * ends.min, ends.max), ends.min)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None
