"""Logistic loss of pairs of a positive and a negative. N items given, P positive ones, K negative ones."""

from __future__ import annotations

from typing import final

import torch.nn.functional as F
from torch import Tensor

from core.kinds.loss import ScoreLoss
from core.params import params
from plugins.losses._inputs import check_scores, chosen, mean


@final
@params
class PairLogistic(ScoreLoss):
    """Every positive should stand above every negative: `mean_{i in P, j in N} softplus(-(s_i - s_j))`.

    A convex upper bound of 1 - AUC, over log 2 (Burges et al. 2005, "Learning to rank using gradient descent").
    Its gradient never pulls a positive down, unlike that of `smooth_ap`. Only differences count, so scores are no
    probabilities: add it to `bce`. Time and memory are O(P K) in one batch.
    """

    shift_free = True
    swap_safe = True

    def __call__(
        self, scores_N: Tensor, positive_N: Tensor, real_N: Tensor, items_N: Tensor | None = None
    ) -> dict[str, Tensor]:
        """`{"pair_logistic": scalar}` in nats a pair, float32 or wider; 0 without a positive or without a negative.

        Args:
            scores_N: logits.
            positive_N: bool.
            real_N: bool, False on padding.
            items_N: not read.

        Raises:
            ValueError: the arrays differ in shape, or labels are not bool.
        """
        check_scores("pair_logistic", scores_N, positive_N, real_N)
        up_P, down_K = chosen(scores_N, real_N & positive_N), chosen(scores_N, real_N & ~positive_N)
        return {"pair_logistic": mean(-F.logsigmoid(up_P[:, None] - down_K))}
