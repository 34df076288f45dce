"""Logistic loss with a margin for each class. N items given, P positive ones, K negative ones."""

from __future__ import annotations

from typing import final

import torch.nn.functional as F
from torch import Tensor

from core.kinds.loss import ScoreLoss
from core.params import knob, params
from plugins.losses._inputs import check_scores, chosen, mean


@final
@params
class Immax(ScoreLoss):
    """Imbalanced margin maximisation: classes weigh the same, and alpha shares the margin between them.

    `L = 1/2 mean_{i in P} softplus(-s_i / alpha) + 1/2 mean_{j in N} softplus(s_j / (1 - alpha))` (after Cortes et al.
    2025, arXiv:2502.10381). Its outputs are no probabilities, whatever the network: at alpha = 1/2 the best score is
    1/2 logit(eta), with eta the posterior under equally frequent classes. Take `bce` where probabilities are wanted.
    """

    swap_safe = True

    alpha: float = knob(0.5, "share of the margin that positives get; more for the rarer class", gt=0.0, lt=1.0)

    def __call__(
        self, scores_N: Tensor, positive_N: Tensor, real_N: Tensor, items_N: Tensor | None = None
    ) -> dict[str, Tensor]:
        """`{"immax": scalar}` in nats, float32 or wider; a class without items adds 0.

        Args:
            scores_N: logits.
            positive_N: bool.
            real_N: bool, False on padding.
            items_N: not read.

        Raises:
            ValueError: the arrays differ in shape, or labels are not bool.
        """
        check_scores("immax", scores_N, positive_N, real_N)
        up_P, down_K = chosen(scores_N, real_N & positive_N), chosen(scores_N, real_N & ~positive_N)
        positive, negative = -F.logsigmoid(up_P / self.alpha), -F.logsigmoid(-down_K / (1.0 - self.alpha))
        return {"immax": 0.5 * (mean(positive) + mean(negative))}
