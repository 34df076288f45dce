"""Anchors that point apart. B batch, A anchors, D width."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def likeness(anchors_BAD: Tensor) -> Tensor:
    """||N N^T - I||_F^2 / A^2 with N the anchors at unit length, mean over the sets that have anchors; a scalar.

    0 where the anchors of a set are orthogonal, near 1 where they all point the same way. Not to be confused with a
    penalty on the weights that make them: these may differ while what they read is the same.
    """
    wide_BAD = anchors_BAD.to(torch.promote_types(anchors_BAD.dtype, torch.float32))
    count = wide_BAD.shape[1]
    unit_BAD = F.normalize(wide_BAD, dim=-1)
    # As products and sums: autocast would round a matrix product to half precision.
    cosine_BAA = (unit_BAD[:, :, None] * unit_BAD[:, None]).sum(-1)
    apart_BAA = cosine_BAA * (1 - torch.eye(count, dtype=wide_BAD.dtype, device=wide_BAD.device))
    there_B = (anchors_BAD.detach() != 0).any(-1).any(-1)
    return apart_BAA.square().sum((1, 2)).div(count**2).sum() / there_B.sum().clamp_min(1)
