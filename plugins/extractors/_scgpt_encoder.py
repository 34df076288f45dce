"""scGPT's encoder (Cui et al. 2024, doi:10.1038/s41592-024-02201-0), written from its formulas.

N items, L tokens, V names, D width, H heads, I inner width. Attributes are called as the parameters of a published
checkpoint are, so that its state loads as it stands once `Wqkv` is mapped.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

VALUE_CLAMP = 512.0


class Encoder(nn.Module):
    """Name and value of each token are embedded and added; layers of attention; no position, so tokens are a set."""

    def __init__(self, names: int, width: int, inner: int, layers: int, heads: int) -> None:
        super().__init__()
        self.encoder = Names(names, width)
        self.value_encoder = Values(width)
        self.transformer_encoder = Layers(width, inner, layers, heads)

    def forward(self, names_NL: Tensor, values_NL: Tensor, real_NL: Tensor | None = None) -> Tensor:
        """Vectors (N, L, D) of tokens; of padding they mean nothing.

        Args:
            names_NL: int64, row of the embedding.
            values_NL: bins as numbers.
            real_NL: bool, False on padding; None where nothing is padded.
        """
        x_NLD = self.encoder(names_NL) + self.value_encoder(values_NL)
        return self.transformer_encoder(x_NLD, None if real_NL is None else real_NL[:, None, None])


class Names(nn.Module):
    """An embedding and its normalisation."""

    def __init__(self, names: int, width: int) -> None:
        super().__init__()
        self.embedding, self.enc_norm = nn.Embedding(names, width), nn.LayerNorm(width)

    def forward(self, names_NL: Tensor) -> Tensor:
        return self.enc_norm(self.embedding(names_NL))


class Values(nn.Module):
    """Two layers on one number, which is held below 512."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear1, self.linear2, self.norm = nn.Linear(1, width), nn.Linear(width, width), nn.LayerNorm(width)

    def forward(self, values_NL: Tensor) -> Tensor:
        return self.norm(self.linear2(F.relu(self.linear1(values_NL.clamp(max=VALUE_CLAMP)[..., None]))))


class Layers(nn.Module):
    """Layers one after the other, with nothing behind the last."""

    def __init__(self, width: int, inner: int, layers: int, heads: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(width, inner, heads) for _ in range(layers))

    def forward(self, x_NLD: Tensor, visible_N11L: Tensor | None) -> Tensor:
        for layer in self.layers:
            x_NLD = layer(x_NLD, visible_N11L)
        return x_NLD


class Layer(nn.Module):
    """Attention, then two linear layers about a ReLU; each is added to its input and the sum normalised (post-norm)."""

    def __init__(self, width: int, inner: int, heads: int) -> None:
        super().__init__()
        self.self_attn = Attention(width, heads)
        self.linear1, self.linear2 = nn.Linear(width, inner), nn.Linear(inner, width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, x_NLD: Tensor, visible_N11L: Tensor | None) -> Tensor:
        x_NLD = self.norm1(x_NLD + self.self_attn(x_NLD, visible_N11L))
        return self.norm2(x_NLD + self.linear2(F.relu(self.linear1(x_NLD))))


class Attention(nn.Module):
    """softmax(q k^T / sqrt(D / H)) v; the rows of `in_proj_weight` are [q; k; v]."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.empty(3 * width))
        self.out_proj = nn.Linear(width, width)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.in_proj_bias)

    def forward(self, x_NLD: Tensor, visible_N11L: Tensor | None) -> Tensor:
        qkv_NLD = F.linear(x_NLD, self.in_proj_weight, self.in_proj_bias)
        q_NHLK, k_NHLK, v_NHLK = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in qkv_NLD.chunk(3, dim=-1)
        )
        out_NHLK = F.scaled_dot_product_attention(q_NHLK, k_NHLK, v_NHLK, attn_mask=visible_N11L)
        return self.out_proj(out_NHLK.transpose(1, 2).flatten(2))
