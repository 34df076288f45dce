"""Maximum mean discrepancy of groups. n rows of the prediction and m of the target in a group, F features."""

from __future__ import annotations

from typing import Literal, final

import torch
from torch import Tensor

from core.kinds.loss import SampleLoss
from core.params import knob, params
from plugins.losses._inputs import bounded, full_precision


@final
@params
class Mmd(SampleLoss):
    """Squared kernel distance between the laws of prediction and target, inside each group, then over groups.

    `MMD2_u = sum_{i != j} k(x_i, x_j) / n(n-1) + sum_{i != j} k(y_i, y_j) / m(m-1) - 2 mean_ij k(x_i, y_j)` (Gretton et
    al. 2012, JMLR 13, eq. 3), `k = mean_s exp(-|a - b|^2 / (2 s h))`, h the median of the squared distances above 0
    between target rows of the group (rows drawn twice do not shrink it; 1 where all are equal). Groups are never mixed,
    and the mean is over groups with enough rows on both sides.

    The unbiased form is below 0 half of the time where the laws agree: it is a loss, not a distance to report. For
    reports take `estimator = "biased"`, eq. 5 of the paper, which is never below 0 and not 0 in expectation.
    """

    nonnegative = False

    estimator: Literal["unbiased", "biased"] = knob("unbiased", "which estimate of the squared distance")
    scales: tuple[float, ...] = knob((0.5, 1.0, 2.0, 4.0), "squared kernel widths over the median", gt=0.0)
    min_rows: int = knob(4, "rows that a group needs on both sides to count", ge=2)

    def __attrs_post_init__(self) -> None:
        if not self.scales:
            raise ValueError("scales is empty; mmd needs at least one kernel width, such as 1.0")

    def enough(self) -> int:
        return self.min_rows

    def __call__(
        self, predicted_NF: Tensor, target_MF: Tensor, predicted_group_N: Tensor, target_group_M: Tensor
    ) -> dict[str, Tensor]:
        """`{"mmd": scalar}`, float32 or wider; 0 without a group that counts.

        Args:
            predicted_NF: rows of the model.
            target_MF: rows of the data, a constant: no gradient reaches them.
            predicted_group_N: int64 group of each row, below 0 where it does not count.
            target_group_M: the same for the target.

        Raises:
            ValueError: the rows differ in width, or a group is missing for some of them.
        """
        if predicted_NF.ndim != 2 or target_MF.ndim != 2 or predicted_NF.shape[1] != target_MF.shape[1]:
            raise ValueError(
                f"predicted is {tuple(predicted_NF.shape)} and target is {tuple(target_MF.shape)}; mmd compares rows "
                "of one width, (rows, features)"
            )
        for rows, groups in ((predicted_NF, predicted_group_N), (target_MF, target_group_M)):
            if groups.shape != rows.shape[:1] or groups.is_floating_point():
                raise ValueError(
                    f"groups are {groups.dtype} {tuple(groups.shape)} for {len(rows)} rows; mmd takes int64"
                )
        target_MF = target_MF.detach()
        with full_precision(predicted_NF):
            if predicted_NF.is_meta:
                return {"mmd": self._one(bounded(predicted_NF), bounded(target_MF))}
            shares = []
            for group in target_group_M[target_group_M >= 0].unique():
                x_nF, y_mF = predicted_NF[predicted_group_N == group], target_MF[target_group_M == group]
                if min(len(x_nF), len(y_mF)) >= self.min_rows:
                    shares.append(self._one(bounded(x_nF), bounded(y_mF)))
            # An empty choice of rows carries the graph, and none of what uncounted rows hold.
            return {"mmd": torch.stack(shares).mean() if shares else bounded(predicted_NF[:0]).sum()}

    def _one(self, x_nF: Tensor, y_mF: Tensor) -> Tensor:
        """The squared distance of one group."""
        # Distances are taken from products, whose rounding grows with the distance from the origin.
        centre_F = y_mF.mean(0)
        x_nF, y_mF = x_nF - centre_F, y_mF - centre_F
        yy_mm = _squared_distances(y_mF, y_mF)
        bandwidth = _median_above_zero(yy_mm)
        within_x, _ = self._means(_squared_distances(x_nF, x_nF), bandwidth)
        within_y, _ = self._means(yy_mm, bandwidth)
        _, between = self._means(_squared_distances(x_nF, y_mF), bandwidth)
        return within_x + within_y - 2.0 * between

    def _means(self, squared: Tensor, bandwidth: Tensor) -> tuple[Tensor, Tensor]:
        """The kernel's mean over a square of pairs as the estimator takes it within a sample, and over all pairs."""
        kernel = torch.stack([(-squared / (2.0 * s * bandwidth)).exp() for s in self.scales]).mean(0)
        if self.estimator == "biased":
            return kernel.mean(), kernel.mean()
        rows = len(kernel)
        # The diagonal is left out, not subtracted as 1: rounding makes it a little less.
        apart = ~torch.eye(*kernel.shape, dtype=torch.bool, device=kernel.device)
        return kernel.where(apart, 0.0).sum() / (rows * (rows - 1)), kernel.mean()


def _squared_distances(x_nF: Tensor, y_mF: Tensor) -> Tensor:
    squared = x_nF.square().sum(1)[:, None] + y_mF.square().sum(1) - 2.0 * (x_nF @ y_mF.T)
    return squared.clamp(min=0)


def _median_above_zero(squared_mm: Tensor) -> Tensor:
    """The lower median of the entries above the diagonal that are above 0; 1 where there is none."""
    i, j = torch.triu_indices(len(squared_mm), len(squared_mm), offset=1, device=squared_mm.device)
    pairs = squared_mm[i, j]
    if not pairs.is_meta:
        pairs = pairs[pairs > 0]
    return pairs.median() if pairs.numel() else squared_mm.new_ones(())
