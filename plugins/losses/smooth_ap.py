"""Smoothed average precision. N items given, P positive ones, K negative ones."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from core.kinds.loss import ScoreLoss
from core.params import knob, params
from plugins.losses._inputs import check_scores, chosen, mean


@final
@params
class SmoothAp(ScoreLoss):
    """1 - average precision of a batch, each step of a rank replaced by a sigmoid.

    With `D_ij = sigmoid((s_j - s_i) / tau)`, `AP = 1/|P| sum_{i in P} (1 + sum_{j in P, j != i} D_ij) /
    (1 + sum_{j != i} D_ij)` and the loss is 1 - AP (Brown et al. 2020, arXiv:2007.12163). As tau goes to
    0 it goes to the exact 1 - AP. It wants 8 positives in a batch or more. Positives compete: raising one lowers the
    precision of others, so a single gradient may point down.
    """

    shift_free = True
    swap_safe = True

    tau: float = knob(0.05, "width of a step, in units of the score", gt=0.0)

    def __call__(
        self, scores_N: Tensor, positive_N: Tensor, real_N: Tensor, items_N: Tensor | None = None
    ) -> dict[str, Tensor]:
        """`{"smooth_ap": scalar}` in [0, 1), float32 or wider; 0 without a positive or without a negative.

        Args:
            scores_N: logits.
            positive_N: bool.
            real_N: bool, False on padding.
            items_N: not read.

        Raises:
            ValueError: the arrays differ in shape, or labels are not bool.
        """
        check_scores("smooth_ap", scores_N, positive_N, real_N)
        up_P, down_K = chosen(scores_N, real_N & positive_N), chosen(scores_N, real_N & ~positive_N)
        # An item against itself gives 1/2 where its own rank asks for 1.
        rank_P = 0.5 + torch.sigmoid((up_P - up_P[:, None]) / self.tau).sum(1)
        above_P = torch.sigmoid((down_K - up_P[:, None]) / self.tau).sum(1)
        return {"smooth_ap": mean(above_P / (rank_P + above_P))}
