"""Independent sigmoids under a budget. B batch, H heads, Q query and S source tokens."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from core.kinds.sparsifier import Sparsifier
from core.params import group, knob, params
from plugins.sparsifiers.bisection import around, bisect
from plugins.sparsifiers.temperature import Cooling, Temperature


@params
class SigmoidBudget(Sparsifier):
    """w = sigmoid(l / T - tau) with a mean of `budget` over the visible sources, divided by its sum.

    The weights of a row sum to 1; before that division w is the chance of each source to be kept, independent given
    tau. The gradient passes through tau by the implicit function theorem, d tau / d l = w' / sum w'. No visible source
    gets exactly 0. With n visible sources w sums to budget * n: unlike in `soft_topk`, what is kept grows with the
    row.
    """

    budget: float = knob(0.4, "mean of w over the visible sources", gt=0.0, lt=1.0)
    temperature: Temperature = group("what the logits are divided by; low values make w nearly 0 or 1")

    def build(self, heads: int) -> SigmoidBudgetWeights:
        return SigmoidBudgetWeights(self)

    def params(self, heads: int) -> int:
        return 0


class SigmoidBudgetWeights(nn.Module):
    """The module of `SigmoidBudget`; it owns no parameters."""

    def __init__(self, plugin: SigmoidBudget) -> None:
        super().__init__()
        self.budget = plugin.budget
        self.cooling = Cooling(plugin.temperature)

    def forward(self, logits_BHQS: Tensor, visible: Tensor) -> Tensor:
        """Weights (B, H, Q, S) of the dtype of the logits; rows sum to 1, or are 0 where nothing is visible.

        Arguments as in `EntmaxWeights.forward`.
        """
        wide = torch.promote_types(logits_BHQS.dtype, torch.float32)
        cooled_BHQS = self.cooling(logits_BHQS.to(wide))
        if not cooled_BHQS.shape[-1]:
            return cooled_BHQS.to(logits_BHQS.dtype)
        z_BHQS, seen_BHQ1 = around(cooled_BHQS, visible, lambda count: (self.budget * count).long() + 1)
        fixed_BHQS = z_BHQS.detach()
        spent_BHQ1 = self.budget * seen_BHQ1.to(wide)
        low_BHQ1, high_BHQ1 = _bracket(fixed_BHQS, seen_BHQ1, spent_BHQ1)
        tau_BHQ1 = bisect(lambda tau: _spent(fixed_BHQS, tau) - spent_BHQ1, low_BHQ1, high_BHQ1)
        for _ in range(2):  # from the root one differentiable Newton step has its slope, two its curvature as well
            w_BHQS = torch.sigmoid(z_BHQS - tau_BHQ1)
            slope_BHQ1 = (w_BHQS * (1.0 - w_BHQS)).sum(-1, keepdim=True)
            # Where all w are 0 or 1 a step would be rounding over rounding, and tau moves nothing.
            slope_BHQ1 = slope_BHQ1.masked_fill(slope_BHQ1 < torch.finfo(wide).eps ** 0.5, torch.inf)
            tau_BHQ1 = tau_BHQ1 + (w_BHQS.sum(-1, keepdim=True) - spent_BHQ1) / slope_BHQ1
        w_BHQS = torch.sigmoid(z_BHQS - tau_BHQ1)
        return (w_BHQS / w_BHQS.sum(-1, keepdim=True).clamp(min=torch.finfo(wide).tiny)).to(logits_BHQS.dtype)


def _spent(z: Tensor, tau: Tensor) -> Tensor:
    return torch.sigmoid(z - tau).sum(-1, keepdim=True)


def _bracket(z_BHQS: Tensor, seen_BHQ1: Tensor, spent_BHQ1: Tensor) -> tuple[Tensor, Tensor]:
    """Thresholds at which at least and at most the budget r is spent, from order statistics, for logits of any range.

    With k > r the k best alone spend r where the k-th spends r / k; with j < r the j best spend at most j, and the rest
    at most r - j where the next spends (r - j) / (n - j).
    """
    ordered_BHQS = z_BHQS.sort(dim=-1, descending=True).values
    more = torch.minimum(spent_BHQ1.floor() + 1.0, seen_BHQ1).clamp(min=1.0)
    fewer = (spent_BHQ1.ceil() - 1.0).clamp(min=0.0)
    low = ordered_BHQS.gather(-1, more.long() - 1) - torch.logit(spent_BHQ1 / more)
    rest = (spent_BHQ1 - fewer) / (seen_BHQ1 - fewer).clamp(min=1.0)
    high = ordered_BHQS.gather(-1, fewer.long()) - torch.logit(rest)
    empty = seen_BHQ1 == 0
    return low.masked_fill(empty, 0.0), high.masked_fill(empty, 0.0)
