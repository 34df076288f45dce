"""Binary cross-entropy of logits. N items, R real ones."""

from __future__ import annotations

import math
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor

from core.kinds.loss import ScoreLoss
from core.params import knob, params
from plugins.losses._inputs import check_scores, chosen, mean


@final
@params
class Bce(ScoreLoss):
    """Binary cross-entropy of logits: the only one of the score losses whose outputs are probabilities.

    `L = mean_i [w y_i softplus(-z_i) + (1 - y_i) softplus(z_i)]`, with `y_i` 1 on positives and w = `pos_weight`.

    Where batches are drawn with another share of positives than the world has, say both: `z` is then `s + logit(drawn)
    - logit(prior)` of the score s, so that sigmoid(s) is the probability under `prior` (Saerens et al. 2002, Neural
    Computation 14; as a loss: Menon et al. 2021, arXiv:2007.07314). Not to be confused with `pos_weight`,
    which moves the probabilities themselves by log(w) in logits; both together would count one shift twice.
    """

    swap_safe = True

    pos_weight: float = knob(1.0, "weight of a positive against a negative", gt=0.0)
    prior: float | None = knob(None, "share of positives for which the scores shall hold", gt=0.0, lt=1.0)
    drawn: float | None = knob(None, "share of positives among the items as they are drawn", gt=0.0, lt=1.0)

    def __attrs_post_init__(self) -> None:
        if (self.prior is None) != (self.drawn is None):
            raise ValueError("prior and drawn correct for each other: give both, or neither")
        if self.prior is not None and self.pos_weight != 1.0:
            raise ValueError("pos_weight shifts the odds that prior and drawn set right: give one or the other")

    @property
    def shift(self) -> float:
        """What is added to a score in training, in logits."""
        if self.prior is None or self.drawn is None:
            return 0.0
        return math.log(self.drawn / (1.0 - self.drawn)) - math.log(self.prior / (1.0 - self.prior))

    def __call__(
        self, scores_N: Tensor, positive_N: Tensor, real_N: Tensor, items_N: Tensor | None = None
    ) -> dict[str, Tensor]:
        """`{"bce": scalar}` in nats an item, float32 or wider.

        Args:
            scores_N: logits.
            positive_N: bool.
            real_N: bool, False on padding.
            items_N: not read.

        Raises:
            ValueError: the arrays differ in shape, or labels are not bool.
        """
        check_scores("bce", scores_N, positive_N, real_N)
        logits_R = chosen(scores_N, real_N) + self.shift
        positive_R = positive_N if scores_N.is_meta else positive_N[real_N]
        cost_R = torch.where(positive_R, -self.pos_weight * F.logsigmoid(logits_R), -F.logsigmoid(-logits_R))
        return {"bce": mean(cost_R)}
