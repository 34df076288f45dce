"""Data parallelism: every process holds the whole model, gradients are averaged."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from inspect import signature
from typing import Any, final

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from core.params import params
from core.train.ranks import Shared
from plugins.strategies._ranked import Ranked


@final
@params
class Ddp(Ranked):
    """`DistributedDataParallel` (Li et al. 2020, arXiv:2006.15704); gradients travel once a step."""

    def spread(self, model: nn.Module) -> nn.Module:
        # Buffers are equal already: they change between steps, by what all processes agree on.
        known = signature(DistributedDataParallel.__init__).parameters
        name = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
        unsynced: dict[str, Any] = {name: False}
        return Shared(DistributedDataParallel(model, **unsynced))

    def summing(self, called: nn.Module, last: bool) -> AbstractContextManager[None]:
        inner = called.get_submodule("network")
        return nullcontext() if last or not isinstance(inner, DistributedDataParallel) else inner.no_sync()
