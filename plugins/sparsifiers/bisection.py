"""What maps with a budget share: logits around a rank, and bisection. R... rows of any shape, S sources."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

REACH = 1e3
"""logits further than this from the one of a rank are as good as infinite to a sigmoid or a clip of width 1"""


def around(logits: Tensor, visible: Tensor, rank: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """Logits less the one of a rank, (R..., S) in [-REACH, REACH] and -inf where hidden; how many are seen, (R..., 1).

    A visible -inf counts as hidden, +inf as the greatest number. What matters to a budget happens around the source
    that the last of it is spent on: there, and not at the row's maximum, no digit may be lost. The shift has no
    gradient.

    Args:
        logits: floats, (R..., S) with S > 0.
        visible: bool, broadcastable to the logits.
        rank: maps the number of seen sources (R..., 1) to a rank from 1 on, clipped to that number.
    """
    quarter = torch.finfo(logits.dtype).max / 4  # so that a difference of two does not overflow
    seen = (visible & (logits != -torch.inf)).expand_as(logits)
    x = logits.clamp(-quarter, quarter).masked_fill(~seen, -torch.inf)
    count = seen.sum(-1, keepdim=True)
    place = torch.minimum(rank(count), count).clamp(min=1)
    pivot = x.detach().sort(dim=-1, descending=True).values.gather(-1, place - 1).masked_fill(count == 0, 0.0)
    return (x - pivot).clamp(-REACH, REACH).masked_fill(~seen, -torch.inf), count


@torch.no_grad()
def bisect(excess: Callable[[Tensor], Tensor], low: Tensor, high: Tensor) -> Tensor:
    """Where falling functions, one a row, are last seen >= 0, as exact as the dtype.

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
