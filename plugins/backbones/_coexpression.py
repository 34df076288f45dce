"""Genes read from the genes that they are co-expressed with.

M cells, V genes of the vocabulary, U genes asked for, k neighbours, D width, H heads, K head width.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.train.streams import Dropout
from plugins.backbones._affine import Affine

BLOCK = 512
"""genes whose correlations with all others are held at a time"""


def coexpressed(cells_MV: np.ndarray | Iterable[np.ndarray], k: int, *, negative: bool = True) -> np.ndarray:
    """The k genes whose expression is most correlated with each gene's, (V, k) int64, strongest first, -1 for none.

    Pearson's r over cells. A gene without variance has no neighbours and is nobody's; of equal correlations the lower
    code comes first. O(M V) memory, of which correlations take no more than `BLOCK` genes at a time.

    Args:
        cells_MV: log1p expression of training cells, logarithm taken once; or blocks of cells (m, V).
        k: neighbours; where fewer are left, a row is filled up with -1.
        negative: rank by |r|; else only genes with r > 0 are neighbours.

    Raises:
        ValueError: k is no positive number; fewer than two cells; a value that is not finite.
    """
    if k < 1:
        raise ValueError(f"neighbours of a gene are at least one, got {k}")
    blocks = [cells_MV] if isinstance(cells_MV, np.ndarray) else list(cells_MV)
    x_MV = np.concatenate([np.asarray(block, np.float32) for block in blocks]) if blocks else np.empty((0, 0))
    if len(x_MV) < 2:
        raise ValueError(f"correlations take two training cells or more, got {len(x_MV)}")
    if not np.isfinite(x_MV).all():
        raise ValueError("expression of training cells has values that are not finite; give log1p of counts")
    # What rounding leaves of a constant gene is no variance, so constancy is asked of the values themselves.
    flat_V = (x_MV == x_MV[:1]).all(0)
    x_MV = x_MV - x_MV.mean(0, dtype=np.float64).astype(np.float32)
    norm_V = np.sqrt(np.square(x_MV, dtype=np.float64).sum(0))
    x_MV /= np.where(flat_V, 1.0, norm_V).astype(np.float32)
    genes = x_MV.shape[1]
    table_Vk = np.full((genes, k), -1, np.int64)
    for start in range(0, genes, BLOCK):
        rows = np.arange(start, min(start + BLOCK, genes))
        strength_UV = (x_MV[:, rows].T @ x_MV).astype(np.float64)
        if negative:
            strength_UV = np.abs(strength_UV)
        strength_UV[:, flat_V] = 0.0
        strength_UV[flat_V[rows]] = 0.0
        strength_UV[np.arange(len(rows)), rows] = 0.0
        best_Uk = np.argsort(-strength_UV, axis=1, kind="stable")[:, :k]
        found_Uk = np.take_along_axis(strength_UV, best_Uk, 1) > 0
        table_Vk[rows, : best_Uk.shape[1]] = np.where(found_Uk, best_Uk, -1)
    return table_Vk


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
