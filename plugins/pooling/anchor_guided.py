"""A learned weighted mean that prefers what another set's anchors resemble.

B batch, T tokens, S tokens of another set, A anchors, D width.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.kinds.anchor import Anchor
from core.kinds.pooling import Pooling
from core.nn.norm import normalised
from core.params import params, slot
from plugins.pooling._weighted import mean, other_set, reality, softmax_mean, without_padding


@params
class AnchorGuided(Pooling):
    """y = sum_l w_l x_l with w = softmax_l((a . LN(x_l) + lambda mean_k cos(LN(x_l), a_k)) / T).

    The anchors a_k are made from the other set, that of the marks `other` and `other_real`, else from the set itself,
    and T = 1 + softplus(u . mean LN) of that set, as in `anchor_temp`. The vectors a and u and the number lambda start
    at zero, so that the arm begins as `mean`.
    """

    anchor: Anchor = slot("attention", "makes the anchors")

    def build(self, width: int) -> AnchorGuidedPooling:
        return AnchorGuidedPooling(self, width)


class AnchorGuidedPooling(nn.Module):
    """The module of `AnchorGuided`."""

    def __init__(self, plugin: AnchorGuided, width: int) -> None:
        super().__init__()
        self.out_width = width
        self.anchor = plugin.anchor.build(width)
        self.score = nn.Parameter(torch.empty(width))
        self.temperature = nn.Parameter(torch.empty(width))
        self.guidance = nn.Parameter(torch.empty(1))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """All tokens weigh the same at first."""
        nn.init.zeros_(self.score)
        nn.init.zeros_(self.temperature)
        nn.init.zeros_(self.guidance)

    def forward(
        self, x_BTD: Tensor, real_BT: Tensor | None = None, marks: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        real_BT = reality(x_BTD, real_BT)
        clean_BTD = without_padding(x_BTD, real_BT)
        other_BSD, other_BS = other_set(clean_BTD, real_BT, marks)
        normed_BTD = normalised(clean_BTD)
        anchors_BAD = F.normalize(self.anchor(other_BSD, other_BS), dim=-1)
        # The mean of cosines is the cosine's numerator with the mean of unit anchors.
        likeness_BT = (F.normalize(normed_BTD, dim=-1) * anchors_BAD.mean(1, keepdim=True)).sum(-1)
        gist_BD = mean(normalised(other_BSD), other_BS)
        temperature_B1 = 1 + F.softplus((gist_BD * self.temperature).sum(-1, keepdim=True))
        logits_BT = ((normed_BTD * self.score).sum(-1) + self.guidance * likeness_BT) / temperature_B1
        return softmax_mean(clean_BTD, logits_BT, real_BT).to(x_BTD.dtype)
