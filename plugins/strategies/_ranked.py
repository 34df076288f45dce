"""What the strategies of several processes have in common."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import ClassVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from core.errors import UserError
from core.kinds import Strategy
from core.train.ranks import Share, rank, sharing


class Ranked(Strategy):
    """Several processes, one a device, that share the sets of each batch; one process where no more are asked for."""

    many: ClassVar[bool] = True

    def device(self, wanted: str) -> torch.device:
        there = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if wanted == "cuda" and not there:
            raise UserError("--device cuda: torch sees no GPU here; use --device cpu, or install a CUDA build of torch")
        if wanted == "cpu" or not there:
            return torch.device("cpu")
        local = int(os.environ.get("LOCAL_RANK", "0"))
        if local >= there:
            raise UserError(f"process {local} of this machine has no GPU of its own: there are {there}; start as many")
        torch.cuda.set_device(local)
        return torch.device("cuda", local)

    def wrap(self, model: nn.Module) -> nn.Module:
        return self.spread(model) if dist.is_initialized() else model

    @abstractmethod
    def spread(self, model: nn.Module) -> nn.Module:
        """As `wrap`, where several processes are joined."""

    @contextmanager
    def sharing(self, called: nn.Module, sets: int, last: bool) -> Iterator[None]:
        if not dist.is_initialized():
            yield
            return
        with sharing(Share(dist.get_rank(), dist.get_world_size(), sets)), self.summing(called, last):
            yield

    @abstractmethod
    def summing(self, called: nn.Module, last: bool) -> AbstractContextManager[None]:
        """A context in which gradients are exchanged if `last`, and only added up otherwise."""

    def backward(self, called: nn.Module, loss: Tensor) -> None:
        loss.backward()

    def main(self) -> bool:
        return rank() == 0
