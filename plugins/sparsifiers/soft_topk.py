"""A budget of k sources, shared softly. B batch, H heads, Q query and S source tokens."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from core.kinds.sparsifier import Sparsifier
from core.params import group, knob, params
from plugins.sparsifiers.bisection import around, bisect
from plugins.sparsifiers.temperature import Cooling, Temperature


@params
class SoftTopK(Sparsifier):
    """w = clip(l / T - tau, 0, 1) with sum w = k, divided by k, so that the weights of a row sum to 1.

    w maximises w . l / T - |w|^2 / 2 over 0 <= w <= 1, sum w = k: sparsemax with room for k (Malaviya, Ferreira and
    Martins 2018, arXiv:1805.08241, the constrained sparsemax with equal bounds). No source gets more than 1 / k. Where
    no more than k sources are visible, each gets an equal share. As T falls to 0 the k best get 1 / k each: that is the
    mean over the top k, and not `topk`, which weighs them by softmax.
    """

    k: int = knob(8, "sources that the budget pays for", ge=1)
    temperature: Temperature = group("what the logits are divided by; annealing from 2 to 0.5 hardens the choice")

    def build(self, heads: int) -> SoftTopKWeights:
        return SoftTopKWeights(self)

    def params(self, heads: int) -> int:
        return 0


class SoftTopKWeights(nn.Module):
    """The module of `SoftTopK`; it owns no parameters."""

    def __init__(self, plugin: SoftTopK) -> None:
        super().__init__()
        self.k = plugin.k
        self.cooling = Cooling(plugin.temperature)

    def forward(self, logits_BHQS: Tensor, visible: Tensor) -> Tensor:
        """Weights (B, H, Q, S) of the dtype of the logits; rows sum to 1, or are 0 where nothing is visible.

        Arguments as in `EntmaxWeights.forward`.
        """
        wide = torch.promote_types(logits_BHQS.dtype, torch.float32)
        cooled_BHQS = self.cooling(logits_BHQS.to(wide))
        if not cooled_BHQS.shape[-1]:
            return cooled_BHQS.to(logits_BHQS.dtype)
        z_BHQS, seen_BHQ1 = around(cooled_BHQS, visible, lambda count: torch.full_like(count, self.k))
        budget_BHQ1 = seen_BHQ1.clamp(max=self.k).to(wide)
        fixed_BHQS = z_BHQS.detach()
        # The k-th logit is at 0: above it less than k is spent, 1 below it at least k.
        zero_BHQ1 = torch.zeros_like(budget_BHQ1)
        tau_BHQ1 = bisect(lambda tau: _spent(fixed_BHQS, tau) - budget_BHQ1, zero_BHQ1 - 1.0, zero_BHQ1)
        lift_BHQS = fixed_BHQS - tau_BHQ1
        partly_BHQ1 = ((lift_BHQS > 0) & (lift_BHQS < 1)).sum(-1, keepdim=True).clamp(min=1)
        # A Newton step, exact as the function is piecewise linear, brings the gradient of the threshold with it.
        tau_BHQ1 = tau_BHQ1 + (_spent(z_BHQS, tau_BHQ1) - budget_BHQ1) / partly_BHQ1
        w_BHQS = _clip(z_BHQS - tau_BHQ1)
        return (w_BHQS / w_BHQS.sum(-1, keepdim=True).clamp(min=1.0)).to(logits_BHQS.dtype)


def _spent(z: Tensor, tau: Tensor) -> Tensor:
    return _clip(z - tau).sum(-1, keepdim=True)


def _clip(x: Tensor) -> Tensor:
    """x between 0 and 1, flat at both ends: `clamp` passes a gradient there, and tied logits lie just there."""
    clipped = x.clamp(0.0, 1.0)
    return torch.where((x > 0) & (x < 1), clipped, clipped.detach())
