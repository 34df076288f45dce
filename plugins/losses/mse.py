"""Mean squared error of items. B sets, N items of a set."""

from __future__ import annotations

import math
from typing import final

import torch
from torch import Tensor

from core.kinds.loss import ValueLoss
from core.params import params


@final
@params
class Mse(ValueLoss):
    """Squared error of every feature, averaged inside a set and then over sets.

    For set b with n_b real items of F features, `L_b = sum_{i real, f} (predicted - target)^2 / (n_b F)`; the loss is
    `sum_b L_b / B`. A set therefore weighs 1 / B however many items it or its neighbours hold, and a set without a
    real item counts as 0. Not to be confused with the mean over all items of a batch, which lets large sets speak
    louder.
    """

    def __call__(self, predicted: Tensor, target: Tensor, real_BN: Tensor) -> dict[str, Tensor]:
        """`{"mse": scalar}` in the squared unit of the target, float32 or wider.

        Args:
            predicted: (B, N, ...).
            target: the same shape.
            real_BN: bool, False on padding, whose content is never read: it may be anything, also nan.

        Raises:
            ValueError: the two arrays differ in shape.
        """
        if predicted.shape != target.shape:
            raise ValueError(
                f"predicted is {tuple(predicted.shape)} and target is {tuple(target.shape)}; mse compares equal shapes"
            )
        wide = torch.promote_types(torch.promote_types(predicted.dtype, target.dtype), torch.float32)
        error = predicted.to(wide) - target.to(wide)
        if real_BN.is_meta or not bool(real_BN.all()):
            real = real_BN.reshape(*real_BN.shape, *[1] * (predicted.ndim - 2))
            # Chosen, not multiplied: 0 * nan of a padded item would be nan, in the gradient too.
            error = torch.where(real, error, 0.0)
        features = math.prod(predicted.shape[2:])
        entries_B = real_BN.sum(1).clamp(min=1) * features
        return {"mse": (error.square().flatten(1).sum(1) / entries_B).mean()}
