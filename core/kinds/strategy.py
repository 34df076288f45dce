"""Strategy: where the steps run."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, ClassVar

from core.kinds.plugin import Plugin

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn
    from torch.optim import Optimizer

    from core.errors import RunFailed


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

    def adopt(self, called: nn.Module, optimiser: Optimizer, clip: float, half: bool) -> nn.Module:
        """The model as the steps call it, where it has to know its optimiser.

        Args:
            called: what `wrap` gave.
            optimiser: of its parameters, before its first step; its groups keep their learning rates.
            clip: largest gradient norm; 0: no clipping.
            half: whether the forward pass computes in bfloat16.
        """
        return called

    @abstractmethod
    def backward(self, called: nn.Module, loss: Tensor) -> None:
        """Accumulate gradients."""

    def update(self, called: nn.Module, optimiser: Optimizer, clip: float, culprit: Callable[[], RunFailed]) -> Tensor:
        """Clip the accumulated gradients and take the optimiser's step; the norm before clipping.

        Raises:
            RunFailed: the norm is not finite; `culprit` finds out why, as long as no weight has changed.
        """
        from torch.nn.utils import clip_grad_norm_

        found = clip_grad_norm_(called.parameters(), clip or math.inf)
        norm = self.full(found, found)
        if not math.isfinite(norm):
            raise culprit()
        optimiser.step()
        return norm

    def held(self, tensor: Tensor) -> Tensor:
        """What this process holds of a parameter or buffer, as a tensor that shares its memory."""
        return tensor

    def full(self, tensor: Tensor, like: Tensor) -> Tensor:
        """Whole what `held` gives of `like`, or what is parted as it is; called on all processes."""
        return tensor

    def part(self, tensor: Tensor, like: Tensor) -> Tensor:
        """Of a whole tensor what this process holds of `like`."""
        return tensor

    def gather(self, model: nn.Module) -> dict[str, Tensor]:
        """The full state of the model on this process, on the CPU; called on all processes."""
        state = model.state_dict(keep_vars=True)
        return {name: self.full(self.held(t).detach(), t).cpu() for name, t in state.items()}

    def put(self, called: nn.Module, model: nn.Module, state: Mapping[str, Tensor]) -> None:
        """Set the model to a full state; called on all processes."""
        here = model.state_dict()
        model.load_state_dict({name: self.part(v, here[name]) if name in here else v for name, v in state.items()})

    def moments(self, called: nn.Module, optimiser: Optimizer) -> dict[str, Any]:
        """The optimiser's `state_dict` with whole tensors; called on all processes."""
        told = optimiser.state_dict()
        order = [p for group in optimiser.param_groups for p in group["params"]]
        told["state"] = {i: {k: self.full(v, order[i]) for k, v in own.items()} for i, own in told["state"].items()}
        return told

    def put_moments(self, called: nn.Module, optimiser: Optimizer, state: dict[str, Any]) -> None:
        """Take over what `moments` gave."""
        optimiser.load_state_dict(state)
        for p, moments in optimiser.state.items():
            moments |= {k: self.part(v, p) for k, v in moments.items() if v.shape == p.shape}

    @abstractmethod
    def main(self) -> bool:
        """Whether this process writes files."""
