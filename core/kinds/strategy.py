"""Strategy: where the steps run."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar

from core.kinds.plugin import Plugin

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


class Strategy(Plugin):
    """One process or many: the trainer never asks which."""

    KIND: ClassVar[str] = "strategy"

    @abstractmethod
    def device(self, wanted: str) -> torch.device:
        """The device of this process for `auto`, `cpu` or `cuda`.

        Raises:
            UserError: the device is not there.
        """

    @abstractmethod
    def wrap(self, model: nn.Module) -> nn.Module:
        """The model as the steps call it."""

    @abstractmethod
    def backward(self, loss: Tensor) -> None:
        """Accumulate gradients."""

    @abstractmethod
    def gather(self, model: nn.Module) -> dict[str, Tensor]:
        """The full state of the model on this process, on the CPU."""

    @abstractmethod
    def main(self) -> bool:
        """Whether this process writes files."""
