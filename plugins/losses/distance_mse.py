"""Mean squared error of pairwise distances. B sets, N items of a set, P axes, R rows of the distance matrix."""

from __future__ import annotations

from typing import Any, ClassVar, final

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from core.kinds.loss import ValueLoss
from core.params import knob, params


@final
@params
class DistanceMse(ValueLoss):
    """Squared error between the distance matrices of prediction and target: shape matters, pose does not.

    For set b with n_b real items, `L_b = sum_{i,j real} (|phat_i - phat_j| - |p_i - p_j|)^2 / n_b^2`, the pairs i = j
    included; the loss is `sum_b L_b / B`, and a set without a real item counts as 0. It is the training loss of LUNA
    (Yu et al. 2025, doi:10.1101/2025.02.13.638045). Rotating, mirroring or shifting the prediction leaves it as it is,
    so a mirror image costs nothing. Not to be confused with `mse` of coordinates, which fixes the pose.

    Distances come from differences of coordinates, never from `|a|^2 + |b|^2 - 2ab`, whose rounding error grows with
    the distance from the origin; no centring is needed, as the difference of two nearby numbers is exact.
    """

    pose_free: ClassVar[bool] = True

    rows: int = knob(256, "rows of the distance matrix held in memory, over all sets of a batch", ge=1, identity=False)

    def __call__(self, predicted: Tensor, target: Tensor, real_BN: Tensor) -> dict[str, Tensor]:
        """`{"distance_mse": scalar}` in the squared unit of the target, float32 or wider.

        The gradient reaches `predicted` alone, `target` is a constant, and there is no second derivative. Where two
        predicted items coincide, the distance has no gradient and 0 is taken. Memory is O(rows * N + B * N * P).

        Args:
            predicted: coordinates (B, N, P).
            target: coordinates, the same shape.
            real_BN: bool, False on padding, whose content is never read.

        Raises:
            ValueError: the arrays differ in shape, or are not (B, N, P).
        """
        if predicted.shape != target.shape or predicted.ndim != 3:
            raise ValueError(
                f"predicted is {tuple(predicted.shape)} and target is {tuple(target.shape)}; "
                "distance_mse compares coordinates of one shape (sets, items, axes)"
            )
        wide = torch.promote_types(torch.promote_types(predicted.dtype, target.dtype), torch.float32)
        loss_B = _DistanceError.apply(predicted.to(wide), target.to(wide), real_BN, self.rows)
        return {"distance_mse": loss_B.mean()}


class _DistanceError(torch.autograd.Function):
    """Loss of each set (B,), and its gradient, from one pass over the rows of the distance matrices."""

    @staticmethod
    def forward(ctx: Any, predicted_BNP: Tensor, target_BNP: Tensor, real_BN: Tensor, rows: int) -> Tensor:
        sets, items, _ = predicted_BNP.shape
        # Axis by axis: every operation then runs along contiguous items, and padding is finite whatever it held.
        predicted, target = (
            [torch.where(real_BN, axis_BN, 0.0) for axis_BN in x.detach().unbind(2)]
            for x in (predicted_BNP, target_BNP)
        )
        weight_BN = real_BN.to(predicted_BNP.dtype)
        loss_B = predicted_BNP.new_zeros(sets)
        grad_BNP = torch.zeros_like(predicted_BNP) if ctx.needs_input_grad[0] else None
        step = max(1, rows // max(1, sets))
        for start in range(0, items, step):
            part = slice(start, start + step)
            differences, distance_BRN = _from_rows(predicted, part)
            error_BRN = distance_BRN - _from_rows(target, part)[1]
            error_BRN *= weight_BN[:, None, :]
            loss_B += (error_BRN.square().sum(2) * weight_BN[:, part]).sum(1)
            if grad_BNP is not None:
                pull_BRN = error_BRN.div_(distance_BRN).masked_fill_(distance_BRN == 0, 0.0)
                for axis, difference_BRN in enumerate(differences):
                    grad_BNP[:, part, axis] = difference_BRN.mul_(pull_BRN).sum(2) * weight_BN[:, part]
        pairs_B = real_BN.sum(1).clamp(min=1).to(loss_B.dtype).square()
        if grad_BNP is not None:
            # Each pair stands in the matrix twice, and its square brings a factor of two.
            ctx.save_for_backward(grad_BNP.mul_((4.0 / pairs_B)[:, None, None]))
        return loss_B / pairs_B

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream_B: Tensor) -> tuple[Tensor, None, None, None]:
        (grad_BNP,) = ctx.saved_tensors
        return grad_BNP * upstream_B[:, None, None], None, None, None


def _from_rows(axes: list[Tensor], part: slice) -> tuple[list[Tensor], Tensor]:
    """Differences (B, R, N), one an axis, and distances (B, R, N) of the items `part` to all items."""
    differences = [axis_BN[:, part, None] - axis_BN[:, None, :] for axis_BN in axes]
    squared_BRN = differences[0].square()
    for difference_BRN in differences[1:]:
        squared_BRN.addcmul_(difference_BRN, difference_BRN)
    return differences, squared_BRN.sqrt_()
