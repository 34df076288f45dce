"""Cells of perturbation screens as a network sees them, one row a cell. M cells, G genes, P perturbations together."""

from __future__ import annotations

from typing import final

import attrs
import torch
from torch import Tensor

from core.kinds import Batch


@final
@attrs.frozen(kw_only=True)
class Cells:
    """Rows of a batch, each cell by itself; rows that are padding hold zeros."""

    expression: Tensor
    """(M, G)"""
    control: Tensor
    """(M, G) a control cell of the same covariates"""
    perturbation: Tensor
    """(M, P) int64, 0 for none"""
    real: Tensor
    """(M,) bool"""
    group: Tensor
    """(M,) int64: the set that a cell is of"""

    @classmethod
    def of(cls, batch: Batch) -> Cells:
        """The cells of all sets, in order."""
        real_BN = batch.real_BN
        shown = {
            name: torch.where(real_BN[..., None], batch.fields[name], 0).flatten(0, 1)
            for name in ("expression", "control", "perturbation")
        }
        group_BN = torch.arange(len(real_BN), device=real_BN.device)[:, None].expand(real_BN.shape)
        return cls(**shown, real=real_BN.flatten(), group=group_BN.flatten())
