"""Disagreement of two rankings of the same items. R real items."""

from __future__ import annotations

import math
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor

from core.kinds.loss import RankingLoss
from core.params import knob, params
from plugins.losses._inputs import check_pair, check_real, chosen, mean


@final
@params
class DirectionRank(RankingLoss):
    """Jensen-Shannon divergence between what two directions say of each pair of items.

    With `D_ij = (l_i - l_j) / T` of each direction's logits l, `L = mean_{i<j} JS(Bern(sigmoid(D_ij)),
    Bern(sigmoid(D'_ij)))` (JS: Lin 1991, IEEE Trans. Inf. Theory 37, with equal weights; pairwise probabilities:
    Bradley and Terry 1952), between 0 and log 2. It asks that both directions rank alike, not that they be equally
    calibrated. Give it the two directions' own logits, never what a gate made of them: a distance to the gated sum is
    made small by closing the gate.
    """

    temperature: float = knob(1.0, "by which differences of logits are divided", gt=0.0)

    def __call__(self, first_N: Tensor, second_N: Tensor, real_N: Tensor) -> dict[str, Tensor]:
        """`{"direction_rank": scalar}` in nats a pair, float32 or wider; 0 for fewer than two items.

        Args:
            first_N: logits of one direction.
            second_N: logits of the other.
            real_N: bool, False on padding.

        Raises:
            ValueError: the arrays differ in shape.
        """
        check_pair("direction_rank", first_N, second_N, axes=1)
        check_real("direction_rank", first_N, real_N)
        first, second = (chosen(x_N, real_N) / self.temperature for x_N in (first_N, second_N))
        i, j = torch.triu_indices(len(first), len(first), offset=1, device=first.device)
        divergence = _js(first[i] - first[j], second[i] - second[j])
        return {"direction_rank": mean(divergence)}


def _js(a: Tensor, b: Tensor) -> Tensor:
    """Jensen-Shannon divergence of two Bernoulli laws given by their logits."""
    total = torch.zeros_like(a)
    for sign in (1.0, -1.0):
        log_p, log_q = F.logsigmoid(sign * a), F.logsigmoid(sign * b)
        # log(p / m) with m = (p + q) / 2 is log 2 - softplus(log q - log p): no p and no q is ever divided by.
        total = total - log_p.exp() * (_softplus(log_q - log_p) - math.log(2))
        total = total - log_q.exp() * (_softplus(log_p - log_q) - math.log(2))
    return 0.5 * total.clamp(min=0)


def _softplus(x: Tensor) -> Tensor:
    return -F.logsigmoid(-x)
