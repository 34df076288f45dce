"""Cells of perturbation screens as a network sees them, one row a cell. M cells, G genes, P perturbations together."""

from __future__ import annotations

from typing import final

import attrs
import torch
from torch import Tensor

from core.kinds import Batch

EXPRESSION = "expression"


@final
@attrs.frozen(kw_only=True)
class Given:
    """What responses are made from, one row a cell."""

    control: Tensor
    """(M, G) a control cell of the same stratum"""
    level: Tensor
    """(M, G) the mean of that stratum's control cells"""
    perturbation: Tensor
    """(M, P) int64, 0 for none"""

    def at(self, rows: Tensor, device: torch.device) -> Given:
        """Some rows, where a network is."""
        return Given(**{name: getattr(self, name)[rows].to(device) for name in GIVEN})


GIVEN = tuple(field.name for field in attrs.fields(Given))


@final
@attrs.frozen(kw_only=True)
class Cells:
    """Rows of a batch, each cell by itself; rows that are padding hold zeros."""

    expression: Tensor
    """(M, G)"""
    given: Given
    """what they are responses of"""
    real: Tensor
    """(M,) bool"""
    group: Tensor
    """(M,) int64: the set that a cell is of"""

    @classmethod
    def of(cls, batch: Batch) -> Cells:
        """The cells of all sets, in order."""
        real_BN = batch.real_BN
        shown = {
            name: torch.where(real_BN[..., None], batch.fields[name], 0).flatten(0, 1) for name in (EXPRESSION, *GIVEN)
        }
        group_BN = torch.arange(len(real_BN), device=real_BN.device)[:, None].expand(real_BN.shape)
        expression = shown.pop(EXPRESSION)
        return cls(expression=expression, given=Given(**shown), real=real_BN.flatten(), group=group_BN.flatten())
