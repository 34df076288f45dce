"""Padding as networks see it. B sets, N items of a set."""

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
