"""What the losses of items share: checked, real, bounded, wide inputs. N items given, R real ones."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

LIMIT = 1e6
"""numbers beyond it are read as it, with a gradient of 0: their squares and sums stay finite in float32"""


def bounded(x: Tensor) -> Tensor:
    """`x` in float32 or wider, within +-LIMIT; NaN stays NaN, so that a ruined model is seen."""
    return x.to(torch.promote_types(x.dtype, torch.float32)).clamp(-LIMIT, LIMIT)


def chosen(x_N: Tensor, keep_N: Tensor) -> Tensor:
    """The items of `x_N` to keep, (R, ...), bounded; what the others hold is never read.

    On the meta device, where nobody knows how many they are, all of them: shapes and FLOPs are then upper bounds.
    """
    return bounded(x_N if x_N.is_meta else x_N[keep_N])


def mean(x: Tensor) -> Tensor:
    """The mean of all entries; 0, with a gradient, of none."""
    return x.sum() / max(x.numel(), 1)


def unit_rows(x_ND: Tensor) -> Tensor:
    """Each row over its Euclidean norm, whatever its scale; a row of zeros stays, with a gradient of 0."""
    scale_N1 = x_ND.detach().abs().amax(-1, keepdim=True)
    some_N1 = scale_N1 > 0
    # The row's direction does not depend on its scale, so the divisor may be taken as a constant.
    scaled_ND = x_ND / torch.where(some_N1, scale_N1, 1.0)
    squared_N1 = torch.where(some_N1, scaled_ND.square().sum(-1, keepdim=True), 1.0)
    return torch.where(some_N1, scaled_ND * squared_N1.rsqrt(), 0.0)


def full_precision(x: Tensor) -> AbstractContextManager[object]:
    """Inside it no product is rounded to half precision, whatever autocast says outside."""
    return nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False)


def check_scores(name: str, scores_N: Tensor, positive_N: Tensor, real_N: Tensor) -> None:
    """One score, one label and one flag an item.

    Raises:
        ValueError: the shapes differ or have more than one axis, or labels or flags are not bool.
    """
    if scores_N.ndim != 1 or positive_N.shape != scores_N.shape:
        raise ValueError(
            f"scores are {tuple(scores_N.shape)} and labels {tuple(positive_N.shape)}; {name} takes one of each an "
            "item, (items,): flatten what has more axes"
        )
    if positive_N.dtype != torch.bool:
        raise ValueError(f"labels are {positive_N.dtype}; {name} takes bool, True on positives: say `labels > 0.5`")
    check_real(name, scores_N, real_N)


def check_real(name: str, x_N: Tensor, real_N: Tensor) -> None:
    """One flag an item.

    Raises:
        ValueError: `real_N` is not bool, or not one an item.
    """
    if real_N.dtype != torch.bool or real_N.shape != x_N.shape[:1]:
        raise ValueError(
            f"real is {real_N.dtype} {tuple(real_N.shape)} beside {tuple(x_N.shape)}; {name} takes one bool an item, "
            "False on padding"
        )


def check_features(name: str, features_ND: Tensor, real_N: Tensor) -> None:
    """One row of at least one feature an item.

    Raises:
        ValueError: `features_ND` is not (items, features), or `real_N` does not fit.
    """
    if features_ND.ndim != 2 or features_ND.shape[1] == 0:
        raise ValueError(
            f"features are {tuple(features_ND.shape)}; {name} takes (items, features), one feature or more"
        )
    check_real(name, features_ND, real_N)


def check_pair(name: str, first: Tensor, second: Tensor, axes: int) -> None:
    """Two arrays of one shape.

    Raises:
        ValueError: they differ in shape, or have another number of axes.
    """
    if first.shape != second.shape or first.ndim != axes or (axes == 2 and first.shape[1] == 0):
        wanted = "(items,)" if axes == 1 else "(items, features), one feature or more"
        raise ValueError(
            f"the two arrays are {tuple(first.shape)} and {tuple(second.shape)}; {name} compares two of one shape "
            f"{wanted}"
        )
