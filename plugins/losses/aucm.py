"""AUC margin loss. N items given, P positive ones, K negative ones."""

from __future__ import annotations

from typing import Any, final

import torch
from torch import Tensor, nn

from core.kinds.loss import LossFacts, ScoreLoss
from core.params import knob, params
from plugins.losses._inputs import check_scores, chosen, mean


@final
@params
class Aucm(ScoreLoss):
    """AUC by a margin between the classes: tight classes, means at least a margin apart.

    `L = E[(s - a)^2 | +] + E[(s - b)^2 | -] + 2 alpha (m + E[s | -] - E[s | +]) - alpha^2`, least over a and b and
    greatest over alpha >= 0 (Yuan et al. 2021, arXiv:2012.03173). Class means stand for expectations, so the
    share of positives does not scale it: the form of the paper that samples both classes at once is p(1 - p) of this.

    `loss(...)` puts in the optimum of the batch: a and b are the class means, alpha = max(0, m + b - a), which gives
    `Var(s | +) + Var(s | -) + max(0, m + b - a)^2`. The module learns the three instead, which is right for batches
    with few positives, whose variance says little; the gradient of alpha is turned round inside, so any optimiser
    that descends will do. Scores are no probabilities.
    """

    shift_free = True

    margin: float = knob(1.0, "by how much the class means should differ, in units of the score", gt=0.0)

    def __call__(
        self, scores_N: Tensor, positive_N: Tensor, real_N: Tensor, items_N: Tensor | None = None
    ) -> dict[str, Tensor]:
        """`{"aucm": scalar}` in squared units of the score, float32 or wider; 0 where a class is missing.

        Args:
            scores_N: logits.
            positive_N: bool.
            real_N: bool, False on padding.
            items_N: not read.

        Raises:
            ValueError: the arrays differ in shape, or labels are not bool.
        """
        check_scores("aucm", scores_N, positive_N, real_N)
        up_P, down_K = chosen(scores_N, real_N & positive_N), chosen(scores_N, real_N & ~positive_N)
        a, b = mean(up_P), mean(down_K)
        spread = mean((up_P - a).square()) + mean((down_K - b).square())
        value = spread + (self.margin + b - a).clamp(min=0).square()
        return {"aucm": value if _both(up_P, down_K) else 0.0 * value}

    def build(self, facts: LossFacts) -> AucmSaddle:
        return AucmSaddle(self)


class AucmSaddle(nn.Module):
    """The module of `Aucm`: learned a, b and alpha in training, and the pure loss in evaluation.

    In training the value may be below 0, as alpha lags behind its optimum; it is a saddle's height, not a distance.
    """

    def __init__(self, loss: Aucm) -> None:
        super().__init__()
        self.loss = loss
        self.a, self.b, self.alpha = (nn.Parameter(torch.empty(())) for _ in range(3))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """All three start at 0, as in the paper."""
        for parameter in (self.a, self.b, self.alpha):
            nn.init.zeros_(parameter)

    def forward(
        self, scores_N: Tensor, positive_N: Tensor, real_N: Tensor, items_N: Tensor | None = None
    ) -> dict[str, Tensor]:
        """The terms of `Aucm`."""
        if not self.training:
            return self.loss(scores_N, positive_N, real_N)
        check_scores("aucm", scores_N, positive_N, real_N)
        up_P, down_K = chosen(scores_N, real_N & positive_N), chosen(scores_N, real_N & ~positive_N)
        alpha = _Ascend.apply(self.alpha)
        spread = mean((up_P - self.a).square()) + mean((down_K - self.b).square())
        value = spread + 2.0 * alpha * (self.loss.margin + mean(down_K) - mean(up_P)) - alpha.square()
        return {"aucm": value if _both(up_P, down_K) else 0.0 * value}


class _Ascend(torch.autograd.Function):
    """max(0, alpha), with a gradient by which descent climbs; below 0 it only leads back."""

    @staticmethod
    def forward(ctx: Any, alpha: Tensor) -> Tensor:
        ctx.save_for_backward(alpha)
        return alpha.clamp(min=0.0)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> Tensor:
        (alpha,) = ctx.saved_tensors
        return -torch.where(alpha < 0, upstream.clamp(min=0.0), upstream)


def _both(up_P: Tensor, down_K: Tensor) -> bool:
    return up_P.numel() > 0 and down_K.numel() > 0
