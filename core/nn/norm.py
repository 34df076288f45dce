"""Layer norm as the pieces share it. D width."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

LARGEST = 1e15
"""channels beyond +-LARGEST count as that: float32 has to square them and add them up"""


def normalised(x_D: Tensor) -> Tensor:
    """(x - mean) / sqrt(variance + 1e-5) over the last dimension, in float32 or wider, without scale and shift.

    Ba et al. 2016, arXiv:1607.06450, eq. 4. For maps that follow at once, whose weights take the part of a learned
    scale and shift. Finite for every finite token; a token of equal channels gives zeros.
    """
    wide_D = x_D.to(torch.promote_types(x_D.dtype, torch.float32)).clamp(-LARGEST, LARGEST)
    return F.layer_norm(wide_D, wide_D.shape[-1:])
