"""Anchors projected from the mean of the sources. B batch, S source tokens, A anchors, D width."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.kinds.anchor import Anchor
from core.nn.auxiliary import tell
from core.nn.norm import normalised
from core.nn.overflow import saturated
from core.params import knob, params
from plugins.anchors._diversity import likeness


@params
class ProjectionAnchors(Anchor):
    """All anchors from one linear map of the mean of the normalised sources: [a_1; ...; a_A] = W mean_s LN(y_s) + b.

    It costs A * D * (D + 1) parameters, and whatever the mean forgets no anchor knows; `attention` lets each anchor
    pick sources of its own.
    """

    count: int = knob(2, "anchors", ge=1)
    diversity: float = knob(
        0.0, "weight of the loss that turns anchors of a set apart; 0: none, 0.001 is mild", ge=0.0, acts="count!=1"
    )

    def build(self, width: int) -> ProjectionAnchorLayer:
        return ProjectionAnchorLayer(self, width)

    def params(self, width: int) -> int:
        return self.count * width * (width + 1)

    def flops(self, width: int, sources: int) -> int:
        return 2 * self.count * width**2


class ProjectionAnchorLayer(nn.Module):
    """The module of `ProjectionAnchors`."""

    def __init__(self, plugin: ProjectionAnchors, width: int) -> None:
        super().__init__()
        self.count, self.diversity = plugin.count, plugin.diversity
        self.project = nn.Linear(width, plugin.count * width)

    def forward(self, context_BSD: Tensor, real_BS: Tensor | None = None) -> Tensor:
        """Anchors (B, A, D) of the dtype of the sources; zeros for a set without real sources.

        Args:
            context_BSD: sources.
            real_BS: bool, False on padding, whatever it holds; None where nothing is padded.
        """
        if real_BS is None:
            real_BS = torch.ones(context_BSD.shape[:2], dtype=torch.bool, device=context_BSD.device)
        normed_BSD = normalised(torch.where(real_BS[..., None], saturated(context_BSD), 0.0))  # zeros stay zeros
        mean_BD = normed_BSD.sum(1) / real_BS.sum(1, keepdim=True).clamp_min(1)
        wide = mean_BD.dtype
        flat = F.linear(mean_BD, self.project.weight.to(wide), self.project.bias.to(wide))
        anchors_BAD = flat.to(wide).unflatten(-1, (self.count, -1))
        anchors_BAD = torch.where(real_BS.any(1)[:, None, None], anchors_BAD, 0.0)
        if self.diversity:
            tell("anchor_diversity", lambda: self.diversity * likeness(anchors_BAD))
        return saturated(anchors_BAD.to(context_BSD.dtype))
