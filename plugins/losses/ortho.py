"""Overlap of two row spaces. C rows of the common map, S rows of the specific one, D inputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor

from core.kinds.loss import WeightLoss
from core.params import params
from plugins.losses._inputs import full_precision, unit_rows


@final
@params
class Ortho(WeightLoss):
    """Two maps should read different directions: mean squared cosine between rows, `|Wn_com Wn_spec^T|_F^2 / (C S)`.

    Rows are normalised (Wn), so that neither map can lower it by shrinking; it is 0 if and only if W_com W_spec^T is 0
    (after Bousmalis et al. 2016, arXiv:1608.06019, there for features and without normalisation). It reads
    weights, not features: an outer product of batch features is not 0 where the maps are orthogonal. Two full row
    spaces can only be orthogonal where C + S <= D.
    """

    def __call__(self, weights: Sequence[Tensor]) -> dict[str, Tensor]:
        """`{"ortho": scalar}` in [0, 1], float32 or wider.

        Args:
            weights: (C, D) and (S, D). A row of zeros is orthogonal to all.

        Raises:
            ValueError: not two matrices with the same number of columns, or one without entries.
        """
        shapes = [tuple(w.shape) for w in weights]
        if len(shapes) != 2 or any(len(s) != 2 or 0 in s for s in shapes) or shapes[0][1] != shapes[1][1]:
            raise ValueError(f"weights are {shapes}; ortho takes two matrices with the same number of columns")
        wide = [w.to(torch.promote_types(w.dtype, torch.float32)) for w in weights]
        with full_precision(wide[0]):
            com_CD, spec_SD = (unit_rows(w.clamp(*_span(w))) for w in wide)
            return {"ortho": (com_CD @ spec_SD.T).square().mean()}


def _span(w: Tensor) -> tuple[float, float]:
    limits = torch.finfo(w.dtype)
    return limits.min, limits.max
