"""What half precision does with numbers beyond its ends."""

from __future__ import annotations

import torch
from torch import Tensor


def saturated(x: Tensor) -> Tensor:
    """The tensor, its infinities as the greatest finite numbers where the dtype is float16.

    float16 ends at 65,504, which a projection of large activations passes; an infinity then meets a weight of 0 or
    another infinity, and NaN comes of it. bfloat16 reaches as far as float32 and is left as it is. NaN stays NaN.
    """
    if x.dtype != torch.float16:
        return x
    ends = torch.finfo(x.dtype)
    return x.clamp(ends.min, ends.max)
