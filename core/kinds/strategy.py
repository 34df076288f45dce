"""Strategy: where the steps run."""

from __future__ import annotations

from abc import abstractmethod
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, ClassVar

from core.kinds.plugin import Plugin

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


class Strategy(Plugin):
    """One process or many: the trainer never asks which.

    Law: N processes take the steps of one process, up to the order in which floats are summed (`core.train.ranks` has
    what that takes).
    """

    KIND: ClassVar[str] = "strategy"
    many: ClassVar[bool] = False
    """whether it runs as several processes where several devices are asked for"""

    @abstractmethod
    def device(self, wanted: str) -> torch.device:
        """The device of this process for `auto`, `cpu` or `cuda`.

        Raises:
            UserError: the device is not there.
        """

    def refuse(self, model: nn.Module, ranks: int) -> None:
        """Look at a model, on the meta device perhaps, before anything is started.

        Raises:
            UserError: it cannot run as so many processes; or there are not as many devices.
        """

    @abstractmethod
    def wrap(self, model: nn.Module) -> nn.Module:
        """The model as the steps call it; the model itself may become one that holds a part of its parameters."""

    def sharing(self, called: nn.Module, sets: int, last: bool) -> AbstractContextManager[None]:
        """Around forward and backward pass of one batch.

        Args:
            called: what `wrap` gave.
            sets: of the batch.
            last: whether the gradients of this step are complete after it.
        """
        return nullcontext()

    @abstractmethod
    def backward(self, loss: Tensor) -> None:
        """Accumulate gradients."""

    def full(self, tensor: Tensor) -> Tensor:
        """A parameter, or what has its shape, whole; called on all processes."""
        return tensor

    def part(self, tensor: Tensor, like: Tensor) -> Tensor:
        """Of a whole tensor what this process holds of `like`."""
        return tensor

    def gather(self, model: nn.Module) -> dict[str, Tensor]:
        """The full state of the model on this process, on the CPU; called on all processes."""
        return {name: self.full(t.detach()).cpu() for name, t in model.state_dict().items()}

    @abstractmethod
    def main(self) -> bool:
        """Whether this process writes files."""
