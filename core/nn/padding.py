"""Padding as networks see it. B sets, N items of a set, F numbers of an item."""

from __future__ import annotations

from torch import Tensor


def hiding(real_BN: Tensor) -> Tensor | None:
    """`real_BN` where it hides something, else None, which every layer serves faster. Meta tensors hide nothing."""
    return None if real_BN.is_meta or bool(real_BN.all()) else real_BN


def blanked(x_BNF: Tensor, real_BN: Tensor | None) -> Tensor:
    """Zeros on padding, whatever it held; None: there is none.

    Chosen, not multiplied: 0 times NaN would be NaN, in the gradient too.
    """
    return x_BNF if real_BN is None else x_BNF.where(real_BN.reshape(*real_BN.shape, *[1] * (x_BNF.ndim - 2)), 0.0)


def mean(x_BNF: Tensor, real_BN: Tensor | None) -> Tensor:
    """Over the real items of each set, (B, 1, F); 0 where there is none; None: all are real."""
    if real_BN is None:
        return x_BNF.mean(1, keepdim=True)
    count_B11 = real_BN.sum(1).clamp(min=1).to(x_BNF.dtype)[:, None, None]
    return blanked(x_BNF, real_BN).sum(1, keepdim=True) / count_B11


def centred(x_BNF: Tensor, real_BN: Tensor | None) -> Tensor:
    """About the mean of the real items of each set, zeros on padding; None: all are real."""
    return blanked(x_BNF - mean(x_BNF, real_BN), real_BN)
