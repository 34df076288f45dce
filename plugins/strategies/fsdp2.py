"""Sharded data parallelism: every process holds a part of each parameter, its gradient and its optimiser state."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, final

import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from core.errors import UserError
from core.params import params
from core.train.ranks import Shared, each
from plugins.strategies._ranked import Ranked


@final
@params
class Fsdp2(Ranked):
    """`fully_shard` of each layer and of the rest (Zhao et al. 2023, arXiv:2304.11277), along first axes."""

    def refuse(self, model: nn.Module, ranks: int) -> None:
        super().refuse(model, ranks)
        scalars = [name for name, p in model.named_parameters() if p.dim() == 0]
        if scalars and ranks > 1:
            raise UserError(
                f"--strategy fsdp2: {scalars[0]} is a single number, which cannot be sharded; choose --strategy ddp, "
                "or a piece without it"
            )

    def spread(self, model: nn.Module) -> nn.Module:
        kind = "cuda" if next(model.parameters()).is_cuda else "cpu"
        mesh = init_device_mesh(kind, (dist.get_world_size(),))
        try:
            for name, child in model.named_children():
                if isinstance(child, nn.ModuleList):
                    for i, layer in enumerate(child):
                        part = f"{name}.{i}"
                        layer.register_forward_hook(_own)
                        fully_shard(layer, mesh=mesh)
            part = "the model"
            model.register_forward_hook(_own)
            fully_shard(model, mesh=mesh, reshard_after_forward=True)
        except (ValueError, NotImplementedError) as error:
            raise UserError(f"--strategy fsdp2: {part} cannot be sharded ({error}); choose --strategy ddp") from None
        return Shared(model)

    def summing(self, called: nn.Module, last: bool) -> AbstractContextManager[None]:
        inner = called.get_submodule("network")
        if isinstance(inner, FSDPModule):
            inner.set_requires_gradient_sync(last)
        return nullcontext()

    def full(self, tensor: Tensor, like: Tensor) -> Tensor:
        return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor

    def part(self, tensor: Tensor, like: Tensor) -> Tensor:
        if not isinstance(like, DTensor):
            return tensor
        return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


def _own(module: nn.Module, given: Any, out: Any) -> Any:
    """Views among the outputs become tensors of their own: work in place on a view would drop the hooks on it."""
    return each(out, lambda x: x.clone() if x._is_view() else x)
