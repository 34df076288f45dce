"""Softmax over the k best sources. B batch, H heads, Q query and S source tokens."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from core.kinds.sparsifier import Sparsifier
from core.params import group, knob, params
from plugins.sparsifiers.newton import shifted
from plugins.sparsifiers.temperature import Cooling, Temperature


@params
class TopK(Sparsifier):
    """Softmax over the k visible sources with the greatest logits; the others get exactly 0.

    Sources that tie with the k-th stay as well, so that order and permutation are respected; where fewer than k are
    visible all stay. The choice itself has no gradient: a source that is left out learns nothing. That is the baseline
    of an ablation, against `soft_topk` (after Shazeer et al. 2017, arXiv:1701.06538, eq. 4 and 5).
    """

    k: int = knob(8, "sources that keep weight", ge=1)
    temperature: Temperature = group("what the logits are divided by")

    def build(self, heads: int) -> TopKWeights:
        return TopKWeights(self)

    def params(self, heads: int) -> int:
        return 0


class TopKWeights(nn.Module):
    """The module of `TopK`; it owns no parameters."""

    def __init__(self, plugin: TopK) -> None:
        super().__init__()
        self.k = plugin.k
        self.cooling = Cooling(plugin.temperature)

    def forward(self, logits_BHQS: Tensor, visible: Tensor) -> Tensor:
        """Weights (B, H, Q, S) of the dtype of the logits; rows sum to 1, or are 0 where nothing is visible.

        Arguments as in `EntmaxWeights.forward`.
        """
        wide = torch.promote_types(logits_BHQS.dtype, torch.float32)
        z_BHQS = shifted(self.cooling(logits_BHQS.to(wide)), visible)
        if not z_BHQS.shape[-1]:
            return z_BHQS.to(logits_BHQS.dtype)
        least_BHQ1 = z_BHQS.detach().topk(min(self.k, z_BHQS.shape[-1]), dim=-1).values[..., -1:]
        # Not where(kept, ..., 0): a visible NaN must stay one.
        grown_BHQS = z_BHQS.exp() * (z_BHQS >= least_BHQ1)
        total_BHQ1 = grown_BHQS.sum(-1, keepdim=True).clamp(min=torch.finfo(wide).tiny)
        return (grown_BHQS / total_BHQ1).to(logits_BHQS.dtype)
