"""What half precision does with numbers beyond its ends.

float16 ends at 65,504, which a projection of large activations passes, and the gradient of one sooner; an infinity then
meets a weight of 0 or another infinity, and NaN comes of it. bfloat16 reaches as far as float32 and is left as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def saturated(x: Tensor) -> Tensor:
    """The tensor, its infinities and those of its gradient as the greatest finite numbers where the dtype is float16.

    What was infinite has no gradient. NaN stays NaN.
    """
    if x.dtype != torch.float16:
        return x
    return _Saturated.apply(x) if x.requires_grad else _finite(x)  # type: ignore[no-any-return, no-untyped-call]


def projected(layer: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """`layer(x)`, a product under autocast; saturated at both ends: its value, and the gradient that it hands on."""
    return saturated(layer(saturated(x.half() if autocast_dtype(x) == torch.float16 else x)))


def autocast_dtype(x: Tensor) -> torch.dtype | None:
    """The dtype of products under autocast; None without it."""
    kind = "cpu" if x.is_meta else x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None


class _Saturated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x.isinf())
        return _finite(x)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Tensor:
        (beyond,) = ctx.saved_tensors
        return torch.where(beyond, 0.0, _finite(grads[0]))


def _finite(x: Tensor) -> Tensor:
    ends = torch.finfo(x.dtype)
    return x.clamp(ends.min, ends.max)


def held(compute: Callable[..., Tensor], *given: Tensor) -> Tensor:
    """`compute(*given)` in float32 where the dtype is float16, and there outside of autocast; saturated on return.

    Args:
        compute: sums of products of what is given, which overflow in float16 long before their weighted means do.
        given: tensors of one dtype.
    """
    if given[0].dtype != torch.float16:
        return compute(*given)
    with torch.autocast(given[0].device.type, enabled=False):
        return saturated(compute(*(saturated(x).float() for x in given)).half())
