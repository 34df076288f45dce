"""Contrast of two views. R real items, D width."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from core.kinds.loss import ViewLoss
from core.params import knob, params
from plugins.losses._inputs import check_pair, check_real, chosen, full_precision, mean, unit_rows


@final
@params
class InfoNce(ViewLoss):
    """Each view of an item should be nearer to the item's other view than to those of other items.

    With `z_ij = cos(a_i, b_j) / T`, the mean over items of the cross-entropy of softmax_j(z_ij) and of softmax_i(z_ij)
    against j = i, both directions counted half (van den Oord et al. 2018, arXiv:1807.03748, eq. 4; both directions:
    Radford et al. 2021, arXiv:2103.00020). Chance is log R. Two rows that stand for the same thing push each other
    apart all the same: give one row a class.
    """

    temperature: float = knob(0.1, "by which cosines are divided", gt=0.0)

    def __call__(self, first_ND: Tensor, second_ND: Tensor, real_N: Tensor) -> dict[str, Tensor]:
        """`{"info_nce": scalar}` in nats, float32 or wider; 0 for fewer than two items.

        Args:
            first_ND: one view of each item; its length does not count, and a vector of zeros is equally far from all.
            second_ND: the other view.
            real_N: bool, False on padding.

        Raises:
            ValueError: the arrays differ in shape, or are not (items, features).
        """
        check_pair("info_nce", first_ND, second_ND, axes=2)
        check_real("info_nce", first_ND, real_N)
        with full_precision(first_ND):
            first_RD, second_RD = unit_rows(chosen(first_ND, real_N)), unit_rows(chosen(second_ND, real_N))
            z_RR = first_RD @ second_RD.T / self.temperature
            both_R = 0.5 * (z_RR.logsumexp(0) + z_RR.logsumexp(1)) - z_RR.diagonal()
            return {"info_nce": mean(both_R) if len(both_R) > 1 else 0.0 * torch.sum(z_RR)}
