"""Bisection for many rows at once."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


@torch.no_grad()
def bisect(excess: Callable[[Tensor], Tensor], low: Tensor, high: Tensor) -> Tensor:
    """Where a falling function is last seen >= 0, to the precision of the dtype; a function that is never 0 there jumps.

    Args:
        excess: maps thresholds, shaped as `low`, to numbers that fall as they rise.
        low: thresholds with an excess >= 0.
        high: thresholds with an excess <= 0.
    """
    for _ in range(56 if low.dtype == torch.float64 else 28):
        middle = low + 0.5 * (high - low)
        above = excess(middle) >= 0
        low, high = torch.where(above, middle, low), torch.where(above, high, middle)
    return low
