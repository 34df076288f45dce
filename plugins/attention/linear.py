"""Linear attention: sources are summed up once, and every query reads the sum.

B batch, Q query and S source tokens, D width, H heads, K head width.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.kinds.attention import Attention, NoWeights
from core.kinds.gate import Gate
from core.kinds.mask import Layout, Mask
from core.nn.overflow import held, projected
from core.params import knob, params, slot
from core.train.streams import Dropout
from plugins.attention._call import without_padding
from plugins.attention._heads import head_width

HIGHEST = 2.0**48
"""where channels of queries and keys end for elu, so that products summed over 2^30 channels and sources are finite"""


@params
class Linear(Attention):
    """Multi-head attention in O(Q + S) time and memory: phi(q) (phi(k)^T v), no weight per pair.

    `softmax`: queries are normalised over the head width, keys over the tokens (Shen et al. 2021, arXiv:1812.01243,
    section 3.2), so the implied weights of a query sum to 1. `elu`: phi = elu + 1, divided by the sum of the implied
    weights (Katharopoulos et al. 2020, arXiv:2006.16236, eq. 5 and 7).

    Not to be confused with `linear-attention-transformer`'s layer of depth 1, which is a whole block with norms and a
    feed-forward of its own. There are no logits: no mask over pairs, no bias, no sparsifier.
    """

    pairs: ClassVar[bool] = False

    heads: int = knob(8, "number of heads; must divide the width", ge=1)
    features: Literal["softmax", "elu"] = knob("softmax", "feature map of queries and keys")
    bias: bool = knob(True, "queries, keys and values have biases")
    dropout: float = knob(0.0, "share of output channels dropped in training", ge=0.0, lt=1.0)
    gate: Gate = slot("none", "scales what a head read")

    def build(self, width: int) -> LinearLayer:
        return LinearLayer(self, width)

    def params(self, width: int) -> int:
        own = 4 * width * width + (4 if self.bias else 1) * width
        return own + self.gate.params(width, self.heads, head_width(width, self.heads))

    def flops(self, width: int, queries: int, sources: int | None = None) -> int:
        head, read = head_width(width, self.heads), queries if sources is None else sources
        return 2 * (queries + read) * width * (2 * width + head) + self.gate.flops(width, self.heads, head, queries)

    def plan(self, device: str) -> list[str]:
        return ["sums over sources once; there are no pairs for a kernel to weigh"]


class LinearLayer(nn.Module):
    """The module of `Linear`."""

    def __init__(self, plugin: Linear, width: int) -> None:
        super().__init__()
        head = head_width(width, plugin.heads)
        self.plugin = plugin
        self.query = nn.Linear(width, width, bias=plugin.bias)
        self.key = nn.Linear(width, width, bias=plugin.bias)
        self.value = nn.Linear(width, width, bias=plugin.bias)
        self.output = nn.Linear(width, width)
        self.gate = plugin.gate.build(width, plugin.heads, head)
        self.dropout = Dropout(plugin.dropout)

    def forward(
        self,
        x_BQD: Tensor,
        mask: Mask | None = None,
        *,
        context_BSD: Tensor | None = None,
        bias: Tensor | None = None,
        real_BS: Tensor | None = None,
        layout: Layout | None = None,
    ) -> Tensor:
        """Tokens after attention, (B, Q, D), of the dtype of `x_BQD`.

        Args:
            x_BQD: queries; also the sources where `context_BSD` is None.
            mask: None or a mask of form "full".
            context_BSD: sources of cross attention.
            bias: None.
            real_BS: bool, False on source tokens that are padding, whatever they hold, NaN included.
            layout: `real_BQ`, the padding of the queries of cross attention.

        Raises:
            ValueError: a bias, or a mask over pairs.
        """
        if mask is not None and mask.form != "full":
            raise ValueError(
                f"linear attention cannot hide pairs, and the mask is of form {mask.form}; choose a pairwise attention"
            )
        if bias is not None:
            raise ValueError("linear attention has no logits to add a bias to; choose a pairwise attention")
        x_BQD, context_BSD = without_padding(x_BQD, context_BSD, real_BS, layout)
        heads = (self.plugin.heads, -1)
        q_BHQK = projected(self.query, x_BQD).unflatten(-1, heads).transpose(1, 2)
        k_BHSK = projected(self.key, context_BSD).unflatten(-1, heads).transpose(1, 2)
        v_BHSK = projected(self.value, context_BSD).unflatten(-1, heads).transpose(1, 2)
        real_B1S1 = None if real_BS is None else real_BS[:, None, :, None]
        features = _softmax_features if self.plugin.features == "softmax" else _elu_features
        out_BHQK = held(lambda q, k, v: features(q, k, v, real_B1S1), q_BHQK, k_BHSK, v_BHSK)
        gated_BQHK = self.gate(out_BHQK, x_BQD).transpose(1, 2)
        return self.dropout(projected(self.output, gated_BQHK.flatten(2))).to(x_BQD.dtype)

    def weights(
        self,
        x_BQD: Tensor,
        mask: Mask | None = None,
        *,
        context_BSD: Tensor | None = None,
        bias: Tensor | None = None,
        real_BS: Tensor | None = None,
        layout: Layout | None = None,
    ) -> Tensor:
        """Refused: arguments as in `forward`.

        Raises:
            NoWeights: always.
        """
        raise NoWeights(
            "linear attention sums its sources up and forms no weight per pair; choose a pairwise attention"
        )


def _softmax_features(q_BHQK: Tensor, k_BHSK: Tensor, v_BHSK: Tensor, real_B1S1: Tensor | None) -> Tensor:
    if real_B1S1 is not None:
        k_BHSK = k_BHSK.masked_fill(~real_B1S1, torch.finfo(k_BHSK.dtype).min)
    share_BHSK = torch.softmax(k_BHSK, dim=2)
    if real_B1S1 is not None:
        share_BHSK = share_BHSK.masked_fill(~real_B1S1, 0.0)  # a set without a real token shares out nothing
    context_BHKK = share_BHSK.transpose(-1, -2) @ v_BHSK
    return torch.softmax(q_BHQK, dim=-1) @ context_BHKK


def _elu_features(q_BHQK: Tensor, k_BHSK: Tensor, v_BHSK: Tensor, real_B1S1: Tensor | None) -> Tensor:
    """The sums over sources are divided out before they meet the values, so that half precision holds them too."""
    wide = torch.promote_types(q_BHQK.dtype, torch.float32)
    least = torch.finfo(wide).eps
    k_BHSK = F.elu(k_BHSK.to(wide).clamp(max=HIGHEST)) + 1.0
    if real_B1S1 is not None:
        k_BHSK = k_BHSK.masked_fill(~real_B1S1, 0.0)
    total_BH1K = k_BHSK.sum(dim=2, keepdim=True)
    share_BHSK = (k_BHSK / total_BH1K.clamp_min(least)).to(v_BHSK.dtype)
    weight_BHQK = (F.elu(q_BHQK.to(wide).clamp(max=HIGHEST)) + 1.0) * total_BH1K
    weight_BHQK = (weight_BHQK / weight_BHQK.sum(-1, keepdim=True).clamp_min(least)).to(v_BHSK.dtype)
    return weight_BHQK @ (share_BHSK.transpose(-1, -2) @ v_BHSK)
