"""How cells become noise: the times, the shares of data and noise, and what a network is shown and asked for.

B sets, N cells, F numbers of a cell (genes or axes), P axes of space.
"""

from __future__ import annotations

from typing import Literal

import attrs
import numpy as np
import torch
from torch import Tensor

from core.kinds import FlowPath, Tree
from core.nn.padding import blanked, centred
from plugins.systems.spatial.fields import MODALITIES

Grid = Literal["uniform", "cosine", "late"]


@attrs.frozen
class Seen:
    """A noisy modality in the terms of the network, whose output `raw` stands for the data `alone + share * raw`.

    For data of unit variance the noisy value alone has the conditional mean alpha x_t / (alpha^2 + sigma^2), which is
    also what the network is shown: pure noise becomes 0, a clean input stays as it is. The network's share is the
    conditional deviation sigma / sqrt(alpha^2 + sigma^2) (Karras et al. 2022, arXiv:2206.00364, table 1). The output
    is then the velocity of the path scaled to unit variance, sigma x1 - alpha x0 where alpha^2 + sigma^2 = 1, which
    is the v of Salimans and Ho 2022 (arXiv:2202.00512) with its sign turned.
    """

    alone_BNF: Tensor
    share: Tensor
    """(B, 1, 1), or (B, N, F) where entries are masked"""

    def hide(self, masked_BNF: Tensor) -> Seen:
        """Masked entries tell nothing, as at t = 0, whatever the time of the others."""
        return Seen(
            torch.where(masked_BNF, 0.0, self.alone_BNF),
            torch.where(masked_BNF, torch.ones_like(self.share), self.share),
        )

    def data(self, raw_BNF: Tensor) -> Tensor:
        """What an output stands for; its axes may be more than those of the input, which is 0 along the others."""
        more = raw_BNF.shape[-1] - self.alone_BNF.shape[-1]
        alone = torch.nn.functional.pad(self.alone_BNF, (0, more)) if more else self.alone_BNF
        return alone + self.share * raw_BNF


def see(path: FlowPath, noisy_BNF: Tensor, t_B: Tensor) -> Seen:
    """A noisy modality at its times, in the terms of the network."""
    alpha, sigma = shares(path, t_B)
    norm = alpha**2 + sigma**2
    return Seen(alpha / norm * noisy_BNF, sigma / norm.sqrt())


def shares(path: FlowPath, t_B: Tensor) -> tuple[Tensor, Tensor]:
    """Shares of data and noise, (B, 1, 1) each."""
    alpha, sigma = path.shares(t_B)
    return alpha[:, None, None], sigma[:, None, None]


def noise(like: Tree, real_BN: Tensor | None, generator: torch.Generator) -> Tree:
    """Standard normal noise, drawn on the CPU in a fixed order of modalities; positions centred, padding zero."""
    fresh = {}
    for m in MODALITIES:
        if m in like:
            draw = torch.randn(like[m].shape, generator=generator).to(like[m].device)
            fresh[m] = centred(draw, real_BN) if m == "position" else blanked(draw, real_BN)
    return fresh


def schedule(grid: Grid, steps: int) -> list[float]:
    """Times from 0 (noise) to 1 (data) of so many steps.

    `uniform` is even; `cosine`, (1 - cos(pi u)) / 2 of an even u, is finer at both ends; `late`, 1 - (1 - u)^2, is
    finer towards the data, where details form.
    """
    u = np.linspace(0.0, 1.0, steps + 1)
    return {"uniform": u, "cosine": np.sin(0.5 * np.pi * u) ** 2, "late": 1.0 - (1.0 - u) ** 2}[grid].tolist()


def stands_still(path: FlowPath) -> bool:
    """Whether the velocity at pure noise says nothing of the data, as on a path that begins at rest."""
    t = torch.zeros(1, dtype=torch.float64)
    (alpha, sigma), (d_alpha, d_sigma) = path.shares(t), path.rates(t)
    return not bool(d_alpha * sigma - d_sigma * alpha > 0)


def as_velocity(path: FlowPath, t_B: Tensor, data_BNF: Tensor) -> Tensor:
    """Data stretched so that differences of data become differences of velocity.

    At a given noisy value, data that differ by d stand for velocities, of the path scaled to unit variance, that differ
    by d sqrt(alpha^2 + sigma^2) / sigma. Sets at t = 1, which have no velocity, become 0.
    """
    alpha, sigma = shares(path, t_B)
    return torch.where(sigma > 0, (alpha**2 + sigma**2).sqrt() / sigma, 0.0) * data_BNF
