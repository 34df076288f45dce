"""Weighted means over real tokens. B batch, T tokens, S tokens of another set, D width."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def reality(x_BTD: Tensor, real_BT: Tensor | None) -> Tensor:
    """`real_BT`, or all True."""
    if real_BT is not None:
        return real_BT
    return torch.ones(x_BTD.shape[:2], dtype=torch.bool, device=x_BTD.device)


def without_padding(x_BTD: Tensor, real_BT: Tensor) -> Tensor:
    """Tokens in float32 or wider with zeros on padding, whatever it held."""
    wide = torch.promote_types(x_BTD.dtype, torch.float32)
    return torch.where(real_BT[..., None], x_BTD.to(wide), 0.0)


def other_set(x_BTD: Tensor, real_BT: Tensor, marks: Mapping[str, Tensor] | None) -> tuple[Tensor, Tensor]:
    """Tokens and reality of the other set that the marks name, else of this one; padding is zeros."""
    if marks is None or "other" not in marks:
        return x_BTD, real_BT
    other_BSD = marks["other"]
    real_BS = reality(other_BSD, marks.get("other_real"))
    return without_padding(other_BSD, real_BS), real_BS


def mean(x_BTD: Tensor, real_BT: Tensor) -> Tensor:
    """The mean of the real tokens, (B, D); zeros where there are none. Padding must hold zeros."""
    count_B1 = real_BT.sum(1, keepdim=True).clamp_min(1)
    return (x_BTD / count_B1[..., None]).sum(1)


def softmax_mean(x_BTD: Tensor, logits_BT: Tensor, real_BT: Tensor) -> Tensor:
    """The mean of the real tokens with weights softmax(logits), (B, D); zeros where there are none.

    Padding must hold zeros; its logits are not looked at.
    """
    seen_BT = logits_BT.masked_fill(~real_BT, -torch.inf)
    # A row without a real token would be softmax(-inf, ...) = NaN; its weights fall on zeros.
    weights_BT = torch.softmax(seen_BT.masked_fill(~real_BT.any(1, keepdim=True), 0.0), 1)
    return (weights_BT[..., None] * x_BTD).sum(1)
