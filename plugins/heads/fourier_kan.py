"""A head of learned periodic functions. B items, D width, K harmonics, F hidden width, P predicted numbers."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.kinds.head import Head
from core.nn.overflow import projected, saturated
from core.params import knob, params


@params
class FourierKan(Head):
    """Each hidden channel is a sum of learned Fourier series, one of every input; a linear map follows.

    h_i = silu(c_i + sum over j, k of a_ijk cos(k t_j) + b_ijk sin(k t_j)) with t = pi tanh(x) and k = 1 .. K: a layer
    of a Kolmogorov-Arnold network (Liu et al. 2024, arXiv:2404.19756) whose functions are Fourier series (Xu et al.
    2024, arXiv:2406.01034). The constant terms of all series are one bias c_i, as only their sum acts. tanh keeps each
    input within one period; it is blind to inputs far beyond 1, so put a norm before this head. The first layer holds
    2 D K F + F parameters, 2 K times as many as that of `mlp`.
    """

    harmonics: int = knob(5, "highest multiple of the base frequency", ge=1)
    hidden: int = knob(128, "hidden channels", ge=1)

    def build(self, width: int, outputs: int) -> FourierKanHead:
        return FourierKanHead(self, width, outputs)


class FourierKanHead(nn.Module):
    """The module of `FourierKan`."""

    def __init__(self, plugin: FourierKan, width: int, outputs: int) -> None:
        super().__init__()
        self.series = FourierSeries(width, plugin.harmonics, plugin.hidden)
        self.map = nn.Linear(plugin.hidden, outputs)

    def forward(self, x_BD: Tensor) -> Tensor:
        """Predictions, (B, P), of the dtype of `x_BD`."""
        return projected(self.map, F.silu(self.series(saturated(x_BD))).to(self.map.weight.dtype)).to(x_BD.dtype)


class FourierSeries(nn.Module):
    """For each hidden channel the sum over inputs of a Fourier series of that input, and a bias."""

    def __init__(self, width: int, harmonics: int, hidden: int) -> None:
        super().__init__()
        self.harmonics = harmonics
        self.cosine_FDK = nn.Parameter(torch.empty(hidden, width, harmonics))
        self.sine_FDK = nn.Parameter(torch.empty(hidden, width, harmonics))
        self.bias_F = nn.Parameter(torch.empty(hidden))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """N(0, 2 / (D K)): as a squared sine is 1/2 on average, channels begin with mean square 2 (He et al. 2015)."""
        std = math.sqrt(2.0 / self.cosine_FDK[0].numel())
        nn.init.normal_(self.cosine_FDK, std=std)
        nn.init.normal_(self.sine_FDK, std=std)
        nn.init.zeros_(self.bias_F)

    def forward(self, x_BD: Tensor) -> Tensor:
        """Hidden channels (B, F), in float32 or wider: a rounded phase of a high harmonic is another phase."""
        wide = torch.promote_types(x_BD.dtype, torch.float32)
        with torch.autocast("cpu" if x_BD.is_meta else x_BD.device.type, enabled=False):
            multiples_K = torch.arange(1, self.harmonics + 1, dtype=wide, device=x_BD.device)
            phase_BDK = (math.pi * torch.tanh(x_BD.to(wide)))[..., None] * multiples_K
            waves = torch.cat([phase_BDK.cos().flatten(1), phase_BDK.sin().flatten(1)], dim=1)
            matrix = torch.cat([self.cosine_FDK.flatten(1), self.sine_FDK.flatten(1)], dim=1).to(wide)
            return F.linear(waves, matrix, self.bias_F.to(wide))
