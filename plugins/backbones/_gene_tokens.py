"""What a cell's genes, their values, the times and the perturbations are to a network.

B cells, N genes of a cell, V genes and K perturbations of the vocabularies (code 0 of these: none), P perturbations
together, U genes asked for, D width, F sines.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.nn.overflow import projected
from core.train.streams import Dropout
from plugins.backbones._affine import Affine
from plugins.backbones._coexpression import CoExpression
from plugins.backbones._kept import Kept, once

SINES = 128
"""frequencies that a time is told in, a sine and a cosine each"""
PERIOD = 10_000.0
"""of the slowest, over that of the fastest"""
LARGEST = 512.0
"""values beyond count as that"""


class Codes(nn.Module):
    """LN(E[code]), E normal."""

    def __init__(self, codes: int, width: int) -> None:
        super().__init__()
        self.table = nn.Embedding(codes, width)
        self.norm = nn.LayerNorm(width)

    def forward(self, code: Tensor | None = None) -> Tensor:
        """Embeddings (..., D) of codes (...); None: of all of them."""
        return self.norm(self.table.weight if code is None else self.table(code))


class Genes(nn.Module):
    """Embeddings of genes, which may have read those of their co-expressed neighbours.

    They know nothing of the cell, so each is computed once however many cells there are.
    """

    def __init__(self, genes: int, width: int, heads: int, neighbours: int, dropout: float) -> None:
        super().__init__()
        self.codes = Codes(genes, width)
        room = min(neighbours, genes - 1)
        self.reading = CoExpression(genes, width, heads, room, dropout) if room else None

    def forward(self, gene_U: Tensor) -> Tensor:
        """(U, D) of codes (U,)."""
        return self.codes(gene_U) if self.reading is None else self.reading(self.codes(), gene_U)


class Perturbations(nn.Module):
    """One vector a cell for its set of perturbations: order, repetition and padding are irrelevant.

    A member is embedded by the network's own table of genes where it is one of these, else by a table of perturbations.
    The empty set is control, and has a vector; that nothing is told has another.

    `gene_K` says which gene each perturbation is, -1 for none; at first none is one. It is saved with the weights.
    """

    gene_K: Tensor

    def __init__(
        self, perturbations: int, genes: int, width: int, combine: Literal["mean", "sum"], average_control: bool
    ) -> None:
        super().__init__()
        self.combine, self.average_control, self.genes = combine, average_control, genes
        self.untold = perturbations
        self.codes = Codes(perturbations + 1, width)
        self.register_buffer("gene_K", torch.full((perturbations,), -1))

    def set_genes(self, gene_K: np.ndarray | Tensor) -> None:
        """Say which perturbations are genes.

        Args:
            gene_K: code of the gene by code of the perturbation, -1 for none; that of code 0 is not read.

        Raises:
            ValueError: another number of perturbations, or a code that is no gene.
        """
        gene_K = torch.as_tensor(gene_K, device=self.gene_K.device).long()
        if gene_K.shape != self.gene_K.shape or bool(((gene_K < -1) | (gene_K >= self.genes)).any()):
            raise ValueError(
                f"which gene a perturbation is takes {len(self.gene_K)} codes from -1 (none) to {self.genes - 1}, got "
                f"{gene_K.numel()}" + (f" from {int(gene_K.min())} to {int(gene_K.max())}" if gene_K.numel() else "")
            )
        self.gene_K.copy_(gene_K)
        self.gene_K[0] = -1

    def forward(self, code_BP: Tensor, told_B: Tensor | None, embed: Genes, kept: Kept | None = None) -> Tensor:
        """(B, D).

        Args:
            code_BP: perturbations of each cell, 0 for none.
            told_B: False where the network is not to know; None: all are told.
            embed: of genes.
            kept: of calls with the same codes, whatever they are told.
        """
        whole_BD = once(kept, "sets", lambda: self._sets(code_BP, embed))
        if told_B is None:
            return whole_BD
        untold_1D = once(kept, "untold", lambda: self._special(self.untold))
        return torch.where(told_B[:, None], whole_BD, untold_1D)

    def _sets(self, code_BP: Tensor, embed: Genes) -> Tensor:
        code_BP = code_BP.sort(-1).values
        counts_BP = code_BP != 0
        counts_BP[:, 1:] &= code_BP[:, 1:] != code_BP[:, :-1]
        gene_BP = self.gene_K[code_BP]
        own_BPD = self.codes(code_BP)
        shared_BPD = embed(gene_BP.clamp(min=0).flatten()).unflatten(0, gene_BP.shape)
        member_BPD = torch.where((gene_BP >= 0)[..., None], shared_BPD, own_BPD)
        whole_BD = (member_BPD * counts_BP[..., None]).sum(1)
        count_B1 = counts_BP.sum(1)[:, None]
        if self.combine == "mean":
            whole_BD = whole_BD / count_B1.clamp(min=1)
        control_1D = self._special(0)
        if self.average_control:
            whole_BD = torch.where(count_B1 == 1, (whole_BD + control_1D) / 2, whole_BD)
        return torch.where(count_B1 == 0, control_1D, whole_BD)

    def _special(self, code: int) -> Tensor:
        return self.codes(torch.tensor([code], device=self.gene_K.device))


class Values(nn.Module):
    """LN(W_2 relu(W_1 v + b_1) + b_2) of a number, those above 512 as 512 (Cui et al. 2024, scGPT)."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.first, self.second = Affine(1, width), Affine(width, width)
        self.norm = nn.LayerNorm(width)
        self.dropout = Dropout(dropout)

    def forward(self, value_BN1: Tensor) -> Tensor:
        inner_BND = F.relu(self.first(value_BN1.clamp(max=LARGEST)))
        return self.dropout(self.norm(self.second(inner_BND)))


class Fused(nn.Module):
    """LN(W_2 gelu(W_1 [a; b])) of a token's control cell a and its expression b, where that is there.

    W_1 is applied to each by itself, so that the control's part can be kept and no copy of both is made.
    """

    def __init__(self, width: int, streams: int) -> None:
        super().__init__()
        self.width = width
        self.first, self.second = Affine(streams * width, width), Affine(width, width)
        self.norm = nn.LayerNorm(width)

    def forward(self, control_BND: Tensor, expression_BND: Tensor | None, kept: Kept | None = None) -> Tensor:
        of_control, *of_expression = self.first.weight.split(self.width, 1)
        inner_BND = once(
            kept, "control", lambda: projected(lambda x: F.linear(x, of_control, self.first.bias), control_BND)
        )
        if expression_BND is not None:
            inner_BND = inner_BND + projected(lambda x: F.linear(x, of_expression[0]), expression_BND)
        return self.norm(self.second(F.gelu(inner_BND)))


class Latents(nn.Module):
    """W_2 act(W_1 z) + b_2, W_1 narrow (Baade et al. 2026, arXiv:2602.11401, have no activation there)."""

    def __init__(self, size: int, inner: int, width: int, act: Literal["none", "gelu"]) -> None:
        super().__init__()
        self.act = act
        self.first, self.second = Affine(size, inner, bias=False), Affine(inner, width)

    def forward(self, z_BNL: Tensor) -> Tensor:
        inner = self.first(z_BNL)
        return self.second(F.gelu(inner) if self.act == "gelu" else inner)


class Clock(nn.Module):
    """W_2 silu(W_1 [cos(s t f); sin(s t f)]) of a time, f from 1 down to 1 / PERIOD (Peebles and Xie 2023)."""

    def __init__(self, width: int, scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.first, self.second = Affine(2 * SINES, width), Affine(width, width)

    def forward(self, t_B: Tensor) -> Tensor:
        wide = torch.promote_types(t_B.dtype, torch.float32)
        step_F = torch.arange(SINES, device=t_B.device, dtype=wide) * (-math.log(PERIOD) / SINES)
        phase_BF = self.scale * t_B.to(wide)[:, None] * step_F.exp()
        waves = torch.cat([phase_BF.cos(), phase_BF.sin()], -1).to(self.first.weight.dtype)
        return self.second(F.silu(self.first(waves)))
