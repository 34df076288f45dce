"""A limit on the spectral norm of a gate's weights. R rows, D width, N the smaller and M the larger of the two.

The steeper a gate, the sooner it saturates: a gate's scores change by at most a quarter of the spectral norm sigma_1(W)
for a unit change of the token, as the slope of a sigmoid is at most 1/4.
"""

from __future__ import annotations

from typing import Literal

import attrs
import torch
import torch.nn.functional as F
from torch import Tensor

from core.nn.auxiliary import tell

Mode = Literal["none", "penalty", "projection"]
SQUARINGS = 6
"""of the Gram matrix; 64 power steps leave an error below 1 % of the norm, however close the singular values lie"""


@attrs.frozen
class Spectral:
    """What a gate does about sigma_1(W) beyond a bound.

    `penalty` adds weight * max(0, sigma_1 - bound)^2 to the training loss; `projection` uses W min(1, bound / sigma_1)
    in W's place, which keeps the singular vectors and shrinks all singular values alike (it is not the nearest matrix
    within the bound, which would clip them one by one). Unlike torch's `spectral_norm`, neither raises a norm that is
    within the bound (Yoshida and Miyato 2017, arXiv:1705.10941; Miyato et al. 2018, arXiv:1802.05957).
    """

    mode: Mode
    bound: float
    weight: float

    def limited(self, weight_RD: Tensor) -> Tensor:
        """The weights to use in a forward pass. A penalty is told to whoever listens (`core.nn.auxiliary`)."""
        if self.mode == "penalty":
            tell("spectral", lambda: self.weight * (spectral_norm(weight_RD) - self.bound).clamp_min(0.0).square())
        if self.mode == "projection":
            norm = spectral_norm(weight_RD).clamp_min(self.bound)
            # A number over a tensor is a product with its reciprocal, which is not exactly 1 at the bound.
            return weight_RD * (torch.full_like(norm, self.bound) / norm).to(weight_RD.dtype)
        return weight_RD

    def flops(self, width: int, rows: int, tokens: int) -> int:
        """FLOPs of the matrix products of a gate's map, and of its projection in each forward pass."""
        small, large = sorted((rows, width))
        norm = 2 * small**2 * (large + SQUARINGS * small) + 4 * small * large
        return 2 * tokens * width * rows + (norm if self.mode == "projection" else 0)


def spectral_norm(weight_RD: Tensor) -> Tensor:
    """sigma_1 of a matrix, a scalar in float32 or wider, with its gradient; never above the true value.

    Power iteration on the smaller Gram matrix G, by squaring: k squarings make 2^k steps, all unit vectors at once, of
    which the one that grew most is kept. So there is no start vector to draw, to save, or to be unlucky with; the same
    matrix has the same norm at any step and in any process. Cost: k min(R, D)^3 multiply-adds.
    """
    wide = torch.promote_types(weight_RD.dtype, torch.float32)
    device = "cpu" if weight_RD.is_meta else weight_RD.device.type
    with torch.autocast(device, enabled=False):  # half precision would round the squares
        flat_NM = weight_RD.to(wide) if weight_RD.shape[0] <= weight_RD.shape[1] else weight_RD.to(wide).T
        with torch.no_grad():
            tiny = torch.finfo(wide).tiny
            unit_NM = flat_NM / flat_NM.abs().amax().clamp_min(tiny)
            power_NN = unit_NM @ unit_NM.T
            for _ in range(SQUARINGS):
                power_NN = power_NN / power_NN.trace().clamp_min(tiny)
                power_NN = power_NN @ power_NN
            grown = power_NN.diagonal().argmax(keepdim=True)
            u_N = F.normalize(power_NN.index_select(1, grown).squeeze(1), dim=0, eps=tiny)
            v_M = F.normalize(u_N @ unit_NM, dim=0, eps=tiny)
        # Linear in W with u and v fixed: d sigma_1 / dW = u v^T, which is finite for a matrix of zeros too.
        return u_N @ flat_NM @ v_M
