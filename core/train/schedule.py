"""Numbers that move while a model trains: temperatures, exponents.

A module derives from `Scheduled` and computes its number from `self.progress` in `forward`. Before every step the
trainer says how much of the training is done; validation and evaluation say nothing, so the number stays where it was.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

Shape = Literal["linear", "cosine"]


class Scheduled(nn.Module):
    """A module that knows how much of the training is done.

    `progress` is a buffer, so it travels with the weights: a resumed run and a loaded model stand where they stood.
    What derives from it must be a function of `progress` and nothing else.
    """

    progress: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("progress", torch.zeros(()))

    def advance(self, progress: float) -> None:
        """Say how much of the training is done, from 0 (before the first step) to 1.

        Raises:
            ValueError: outside [0, 1].
        """
        if not 0.0 <= progress <= 1.0:
            raise ValueError(f"progress is a share of the training, from 0 to 1, got {progress}")
        self.progress.fill_(progress)


def advance(model: nn.Module, progress: float) -> None:
    """Tell every scheduled module of a model how much of the training is done."""
    for module in model.modules():
        if isinstance(module, Scheduled):
            module.advance(progress)


def moved(start: float, end: float, share: float, shape: Shape, progress: Tensor) -> Tensor:
    """From `start` to `end` over the first `share` of the training, then constant; a tensor shaped as `progress`.

    linear: start + (end - start) u; cosine: end + (start - end) (1 + cos(pi u)) / 2 (Loshchilov and Hutter 2017,
    arXiv:1608.03983, eq. 5), with u = min(progress / share, 1).
    """
    done = (progress / share).clamp(max=1.0)
    if shape == "cosine":
        done = 0.5 * (1.0 - torch.cos(math.pi * done))
    return start + (end - start) * done
