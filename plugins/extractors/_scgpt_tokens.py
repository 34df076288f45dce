"""An item as scGPT's encoder reads it: which entries become tokens, and their values in bins. N items, G columns."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Ties = Literal["left", "middle"]


def binned(values_NG: Tensor, bins: int, ties: Ties = "left") -> Tensor:
    """Bins (N, G), int64: 0 where the value is not positive, else 1 to bins - 1, by the item's own quantiles.

    With the B = bins - 1 quantiles of the item's n positive values at 0, 1/(B - 1), ..., 1 as edges, `left` counts the
    edges that are not above a value. Where several edges lie at one value, published training draws a bin among those
    from there on; `left` takes the last of them, `middle` the middle one. Both are functions of ranks alone, so equal
    values share a bin and no growing transform of the item changes one, and they are computed in whole numbers: the
    value of rank r (from 0, the last among equals) has floor(r (B - 1) / (n - 1)) + 1 edges not above it.

    Args:
        values_NG: items, finite.
        bins: number of bins with that of zeros, >= 2.
        ties: which bin equal values share.
    """
    columns, steps = values_NG.shape[1], bins - 2
    positive_NG = values_NG > 0
    count_N1 = positive_NG.sum(1, keepdim=True)
    held_NG = torch.where(positive_NG, values_NG, 0.0).contiguous()
    sorted_NG = held_NG.sort(1).values
    zeros_N1, most_N1 = columns - count_N1, (count_N1 - 1).clamp_min(1)
    last_NG = torch.searchsorted(sorted_NG, held_NG, right=True) - 1 - zeros_N1
    # A single value is the largest and the smallest at once; its edges are all at it.
    last_NG = torch.where(count_N1 == 1, most_N1, last_NG)
    left_NG = last_NG * steps // most_N1 + 1
    if ties == "left":
        return torch.where(positive_NG, left_NG, 0)
    first_NG = torch.searchsorted(sorted_NG, held_NG, right=False) - zeros_N1
    below_NG = (first_NG * steps + most_N1 - 1) // most_N1
    middle_NG = (below_NG + left_NG + 1) // 2
    return torch.where(positive_NG, middle_NG, 0)


def chosen(values_NG: Tensor, most: int) -> Tensor:
    """The positive entries (N, G) of each item, bool; where there are more, the `most` largest, ties by column."""
    positive_NG = values_NG > 0
    if values_NG.shape[1] <= most:
        return positive_NG
    largest_NM = values_NG.sort(dim=1, descending=True, stable=True).indices[:, :most]
    return positive_NG & torch.zeros_like(positive_NG).scatter_(1, largest_NM, True)
