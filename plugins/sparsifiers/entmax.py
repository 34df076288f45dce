"""Sparse weights with an exponent between softmax and sparsemax. B batch, H heads, Q query and S source tokens."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from core.kinds.sparsifier import Sparsifier
from core.params import group, knob, params
from core.train.schedule import Scheduled, moved
from plugins.sparsifiers.mapping import entmax
from plugins.sparsifiers.temperature import Cooling, Temperature


@params
class Entmax(Sparsifier):
    """Sparse weights: p = [(alpha - 1) l / T - tau]_+^(1 / (alpha - 1)), tau such that each row sums to 1.

    Softmax at alpha = 1, sparsemax at 2; in between and at 2 a source far below the best one gets exactly 0, the more
    readily the greater alpha is (Peters, Niculae and Martins 2019, arXiv:1905.05702, eq. 5 and 9; sparsemax: Martins
    and Astudillo 2016, arXiv:1602.02068). On the CPU 1.5 and 2 are several times faster than other exponents. Not to be
    confused with `topk`, which keeps a fixed number of sources: here the number follows from the logits.
    """

    alpha: float = knob(1.5, "exponent: the last one where annealed, the first one where learned", ge=1.0, le=2.0)
    mode: Literal["fixed", "annealed", "learned"] = knob(
        "fixed",
        "alpha stays, or moves linearly with training, or is learned a head within (1, 2)",
        source="learned: Correia, Niculae and Martins 2019, arXiv:1909.00015",
    )
    alpha_start: float = knob(1.0, "annealed: the exponent at the first step", ge=1.0, le=2.0, acts="mode=annealed")
    share: float = knob(
        0.6,
        "annealed: share of the training until `alpha` is reached",
        gt=0.0,
        le=1.0,
        acts="mode=annealed and alpha_start!=alpha",
    )
    temperature: Temperature = group("what the logits are divided by")

    def build(self, heads: int) -> EntmaxWeights:
        return EntmaxWeights(self, heads)

    def params(self, heads: int) -> int:
        return heads if self.mode == "learned" else 0


class EntmaxWeights(nn.Module):
    """The module of `Entmax`."""

    def __init__(self, plugin: Entmax, heads: int) -> None:
        super().__init__()
        self.cooling = Cooling(plugin.temperature)
        self.alpha: nn.Module
        if plugin.mode == "learned":
            self.alpha = LearnedAlpha(plugin.alpha, heads)
        elif plugin.mode == "annealed":
            self.alpha = AnnealedAlpha(plugin)
        else:
            self.alpha = FixedAlpha(plugin.alpha)

    def forward(self, logits_BHQS: Tensor, visible: Tensor) -> Tensor:
        """Weights (B, H, Q, S) of the dtype of the logits; rows sum to 1, or are 0 where nothing is visible.

        Args:
            logits_BHQS: real numbers; what hidden entries hold does not matter, -inf counts as hidden, and those that
                are +inf share their row.
            visible: bool, broadcastable to the logits, True where the source may be read.
        """
        wide_BHQS = logits_BHQS.to(torch.promote_types(logits_BHQS.dtype, torch.float32))
        return entmax(self.cooling(wide_BHQS), visible, self.alpha()).to(logits_BHQS.dtype)


class FixedAlpha(nn.Module):
    """A constant exponent."""

    def __init__(self, alpha: float) -> None:
        super().__init__()
        self.value = alpha

    def forward(self) -> float:
        return self.value


class AnnealedAlpha(Scheduled):
    """An exponent that moves linearly over a share of the training, such as from softmax to entmax-1.5."""

    def __init__(self, plugin: Entmax) -> None:
        super().__init__()
        self.plugin = plugin

    def forward(self) -> Tensor:
        plugin = self.plugin
        return moved(plugin.alpha_start, plugin.alpha, plugin.share, "linear", self.progress)


class LearnedAlpha(nn.Module):
    """One exponent a head, 1 + sigmoid(free): it lies within (1, 2) whatever the optimiser does."""

    def __init__(self, alpha: float, heads: int) -> None:
        super().__init__()
        self.first = alpha
        self.free_H = nn.Parameter(torch.empty(heads))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """All heads start at `alpha`, or 0.01 inside the ends, where the sigmoid still has a slope."""
        share = min(max(self.first - 1.0, 0.01), 0.99)
        nn.init.constant_(self.free_H, math.log(share / (1.0 - share)))

    def forward(self) -> Tensor:
        """Exponents (H, 1, 1), in float32 or wider."""
        wide = torch.promote_types(self.free_H.dtype, torch.float32)
        return 1.0 + torch.sigmoid(self.free_H.to(wide))[:, None, None]
