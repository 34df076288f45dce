"""Anchors that read the sources. B batch, S source tokens, A anchors, D width."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from core.kinds.anchor import Anchor
from core.nn.auxiliary import tell
from core.nn.norm import normalised
from core.nn.overflow import saturated
from core.params import knob, params
from plugins.anchors._diversity import likeness


@params
class AttentionAnchors(Anchor):
    """Each anchor is a weighted mean of the normalised sources, by a learned query of its own.

    a_k = sum_s softmax_s(q_k . LN(y_s) / sqrt(D)) LN(y_s), over real sources (Lee et al. 2019, arXiv:1810.00825,
    pooling by attention with seed vectors, here with one head and no projections: the attention that takes the anchors
    has its own). It costs A * D parameters.
    """

    count: int = knob(4, "anchors", ge=1)
    diversity: float = knob(
        0.0, "weight of the loss that turns anchors of a set apart; 0: none, 0.001 is mild", ge=0.0, acts="count!=1"
    )

    def build(self, width: int) -> AttentionAnchorLayer:
        return AttentionAnchorLayer(self, width)

    def params(self, width: int) -> int:
        return self.count * width

    def flops(self, width: int, sources: int) -> int:
        return 4 * self.count * sources * width


class AttentionAnchorLayer(nn.Module):
    """The module of `AttentionAnchors`: one query an anchor."""

    def __init__(self, plugin: AttentionAnchors, width: int) -> None:
        super().__init__()
        self.count, self.diversity = plugin.count, plugin.diversity
        self.query = nn.Parameter(torch.empty(plugin.count, width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Standard normal queries: logits of unit variance, and no two anchors alike."""
        nn.init.normal_(self.query)

    def forward(self, context_BSD: Tensor, real_BS: Tensor | None = None) -> Tensor:
        """Anchors (B, A, D) of the dtype of the sources; zeros for a set without real sources.

        Args:
            context_BSD: sources.
            real_BS: bool, False on padding, whatever it holds; None where nothing is padded.
        """
        wide = torch.promote_types(context_BSD.dtype, torch.float32)
        with torch.autocast("cpu" if context_BSD.is_meta else context_BSD.device.type, enabled=False):
            context_BSD = saturated(context_BSD)
            if real_BS is not None:
                context_BSD = torch.where(real_BS[..., None], context_BSD, 0.0)
            normed_BSD = normalised(context_BSD)
            logits_BAS = self.query.to(wide) @ normed_BSD.mT / context_BSD.shape[-1] ** 0.5
            if real_BS is not None:
                logits_BAS = logits_BAS.masked_fill(~real_BS[:, None], -torch.inf)
                logits_BAS = logits_BAS.masked_fill(~real_BS.any(-1)[:, None, None], 0.0)
            anchors_BAD = torch.softmax(logits_BAS, -1) @ normed_BSD
        if self.diversity:
            tell("anchor_diversity", lambda: self.diversity * likeness(anchors_BAD))
        return saturated(anchors_BAD.to(context_BSD.dtype))
