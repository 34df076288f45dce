"""alpha-entmax as differentiable functions. R... rows of any shape, S sources."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from plugins.sparsifiers import blocks
from plugins.sparsifiers.newton import LEAST, alpha_slope, curved, powered

POWERS = {2.0: 1, 1.5: 2}
"""alpha -> 1 / (alpha - 1) where the weights are a whole power"""


def entmax(logits: Tensor, visible: Tensor, alpha: float | Tensor) -> Tensor:
    """Weights of alpha-entmax, (R..., S), of the dtype of the logits; computed in float32 or wider.

    p = [(alpha - 1) l - tau]_+^(1 / (alpha - 1)) with sum p = 1 (Peters, Niculae and Martins 2019, arXiv:1905.05702):
    softmax at alpha = 1, sparsemax (Martins and Astudillo 2016, arXiv:1602.02068) at 2. All derivatives are exact,
    those of `alpha` and second ones too, wherever the support does not change.

    Args:
        logits: real numbers; hidden ones may hold anything, NaN included. A visible -inf counts as hidden; those that
            are +inf share the row.
        visible: bool, broadcastable to the logits.
        alpha: in [1, 2]; a tensor must broadcast to the logits with a last size of 1.
    """
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if isinstance(alpha, Tensor) and alpha.dim() == 0 and not alpha.requires_grad and _in_blocks(wide):
        alpha = float(alpha)  # an annealed exponent that has arrived at 1.5 or 2 gets the fast path
    if isinstance(alpha, Tensor):
        return _Curved.apply(wide, visible, alpha.to(wide.dtype)).to(logits.dtype)
    power = POWERS.get(alpha)
    if power is None:
        return _Curved.apply(wide, visible, wide.new_full((), alpha)).to(logits.dtype)
    return _Powered.apply(wide, visible, power).to(logits.dtype)


def _in_blocks(tensor: Tensor) -> bool:
    """Whether numbers may be looked at and written in place: neither traced, nor on an accelerator, nor without any."""
    return (
        type(tensor) is Tensor
        and tensor.device.type == "cpu"
        and tensor.numel() > 0
        and not torch.compiler.is_compiling()
    )


class _Powered(torch.autograd.Function):
    """Sparsemax and entmax-1.5."""

    @staticmethod
    def forward(logits: Tensor, visible: Tensor, power: int) -> Tensor:
        return (blocks.weigh if _in_blocks(logits) else powered)(logits, visible, power)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.power = inputs[2]
        ctx.save_for_backward(output)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (p,) = ctx.saved_tensors
        # With gradients enabled a second derivative is asked for, and p carries the graph that leads there.
        if _in_blocks(p) and not torch.is_grad_enabled():
            return blocks.pull(p, grad, ctx.power), None, None
        return _pull(_share(p, 1.0 - 1.0 / ctx.power), grad), None, None


class _Curved(torch.autograd.Function):
    """Any alpha, differentiable in it."""

    @staticmethod
    def forward(logits: Tensor, visible: Tensor, alpha: Tensor) -> Tensor:
        return curved(logits, visible, alpha)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(output, inputs[2])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None, Tensor | None]:
        p, alpha = ctx.saved_tensors
        b = (alpha - 1.0).clamp(min=LEAST)
        s = _share(p, 1.0 - b)
        grad_logits = _pull(s, grad) if ctx.needs_input_grad[0] else None
        if not ctx.needs_input_grad[2]:
            return grad_logits, None, None
        share = s / _total(s)
        return grad_logits, None, (grad * alpha_slope(p, share, b)).sum_to_size(alpha.shape)


def _share(p: Tensor, exponent: float | Tensor) -> Tensor:
    """p^exponent on the support and 0 elsewhere, differentiable.

    Weights below the rounding of the logits count as that, as derivatives of small powers overflow at 0.
    """
    floor = torch.finfo(p.dtype).eps ** 2
    seen = p > 0
    return torch.where(seen, torch.where(seen, p.clamp(min=floor), 1.0) ** exponent, 0.0)


def _pull(s: Tensor, grad: Tensor) -> Tensor:
    """The gradient of the logits: s * (g - sum(s g) / sum(s)) (Peters et al. 2019, prop. 2)."""
    weighed = s * grad
    return weighed - s * (weighed.sum(-1, keepdim=True) / _total(s))


def _total(s: Tensor) -> Tensor:
    """The sum of each row, or 1 in a row that sees nothing."""
    return s.sum(-1, keepdim=True).clamp(min=torch.finfo(s.dtype).tiny)
