"""Genes read from the genes that they are co-expressed with.

M cells, V genes of the vocabulary, U genes asked for, k neighbours, D width, H heads, K head width.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.train.streams import Dropout
from plugins.backbones._affine import Affine


class CoExpression(nn.Module):
    """h = x + MHA(LN x, m, m), h + W_2 gelu(W_1 LN h) of genes, each of which sees itself and its neighbours in m.

    The memory m is the whole vocabulary's; keys and values are gathered, so that the cost is O(V D^2 + U k D), and no
    matrix of genes by genes is formed. It equals masked attention over the vocabulary.

    `neighbours_VK` (V, 1 + k) holds a gene's own code, then its neighbours', and -1 where there are no more. Until
    `set_neighbours` it is each gene alone, and queries and keys have no gradient. It is saved with the weights.
    """

    neighbours_VK: Tensor

    def __init__(self, genes: int, width: int, heads: int, k: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm_attention, self.norm_ffn = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value, self.output = (Affine(width, width) for _ in range(4))
        self.up, self.down = Affine(width, 4 * width), Affine(4 * width, width)
        self.dropout_attention, self.dropout_inner, self.dropout_ffn = (Dropout(dropout, "pass") for _ in range(3))
        alone_VK = torch.full((genes, 1 + k), -1)
        alone_VK[:, 0] = torch.arange(genes)
        self.register_buffer("neighbours_VK", alone_VK)

    def set_neighbours(self, table_Vk: np.ndarray | Tensor) -> None:
        """Say which genes each gene sees beside itself.

        Args:
            table_Vk: codes, (V, at most k), -1 for none; a gene's own code and repetitions count once.

        Raises:
            ValueError: another number of genes, too many neighbours, or a code that is no gene.
        """
        table_Vk = torch.as_tensor(table_Vk, device=self.neighbours_VK.device).long()
        genes, room = len(self.neighbours_VK), self.neighbours_VK.shape[1] - 1
        if table_Vk.ndim != 2 or len(table_Vk) != genes or table_Vk.shape[1] > room:
            raise ValueError(
                f"a table of neighbours is ({genes} genes, at most {room}) here, got {tuple(table_Vk.shape)}; the "
                "backbone's parameter neighbours says how many fit"
            )
        if bool(((table_Vk < -1) | (table_Vk >= genes)).any()):
            raise ValueError(
                f"a table of neighbours holds codes {int(table_Vk.min())} to {int(table_Vk.max())}; genes are 0 to "
                f"{genes - 1}, and -1 is none"
            )
        own_V1 = torch.arange(genes, device=table_Vk.device)[:, None]
        all_VK = torch.cat([own_V1, table_Vk], 1)
        same_VKK = (all_VK[:, :, None] == all_VK[:, None]).tril(-1)
        told_VK = all_VK.masked_fill(same_VKK.any(-1), -1)
        self.neighbours_VK.fill_(-1)
        self.neighbours_VK[:, : told_VK.shape[1]] = told_VK

    def forward(self, memory_VD: Tensor, gene_U: Tensor) -> Tensor:
        """Genes after they have read, (U, D).

        Args:
            memory_VD: what the vocabulary's genes are before.
            gene_U: codes of the genes asked for.
        """
        x_UD = F.embedding(gene_U, memory_VD)
        seen_UK = self.neighbours_VK[gene_U]
        q_UH1K = self._split(self.query(self.norm_attention(x_UD)))[:, :, None]
        # An embedding, as its backward pass is the fastest scatter that PyTorch has.
        near_UK = seen_UK.clamp(min=0)
        k_UHkK, v_UHkK = (
            self._split(F.embedding(near_UK, project(memory_VD))).transpose(1, 2) for project in (self.key, self.value)
        )
        read_UH1K = F.scaled_dot_product_attention(q_UH1K, k_UHkK, v_UHkK, attn_mask=(seen_UK >= 0)[:, None, None])
        x_UD = x_UD + self.dropout_attention(self.output(read_UH1K.flatten(1)))
        inner = self.dropout_inner(F.gelu(self.up(self.norm_ffn(x_UD))))
        return x_UD + self.dropout_ffn(self.down(inner))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1))
