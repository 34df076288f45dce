"""Buffers that training changes, once a step: not once a forward pass, of which a step may have several."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import nn


class BetweenSteps(ABC):
    """A module that changes its buffers between two training steps; put it before `nn.Module` in the bases.

    Its forward pass may gather what it needs and must leave the buffers as they are: gradient accumulation and a
    repeated forward pass would change them too often otherwise, and validation would change them at all.
    """

    @abstractmethod
    def step_taken(self) -> None:
        """The optimiser has taken a step; called on every process, before a checkpoint can be written."""


def tell_step_taken(model: nn.Module) -> None:
    """Tell every module of a model that asked for it."""
    for module in model.modules():
        if isinstance(module, BetweenSteps):
            module.step_taken()
