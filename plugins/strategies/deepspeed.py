"""Data parallelism by DeepSpeed's ZeRO: processes hold parts of moments, gradients and parameters.

The optimiser, its learning rate, the averaged weights and the checkpoints are the trainer's own; DeepSpeed holds the
parts, exchanges them, clips and steps. A checkpoint has whole tensors, so that any strategy takes up another's run.
"""

from __future__ import annotations

import importlib.util
import logging
import math
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, final

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer

from core.errors import RunFailed, UserError
from core.params import knob, params
from core.train.ranks import Shared
from plugins.strategies._ranked import Ranked

BUCKET = 50_000_000
"""numbers of a gradient that travel at once, at most"""
MOMENTS = ("exp_avg", "exp_avg_sq")
"""what AdamW keeps of each number"""


@final
@params
class Deepspeed(Ranked):
    """ZeRO of DeepSpeed (Rajbhandari et al. 2020, arXiv:1910.02054): more is shared the higher the stage."""

    stage: int = knob(2, "what a process holds a part of: 1 moments, 2 gradients too, 3 parameters too", ge=1, le=3)
    offload: bool = knob(False, "keep the moments in the CPU's memory and take the optimiser's step there")

    def device(self, wanted: str) -> torch.device:
        if importlib.util.find_spec("deepspeed") is None:
            raise UserError(
                "--strategy deepspeed needs DeepSpeed. Install it with: pip install 'cellcore[deepspeed]', or choose "
                "--strategy ddp or --strategy fsdp2"
            )
        return super().device(wanted)

    def configuration(self, clip: float, half: bool, numbers: int) -> dict[str, Any]:
        """What DeepSpeed is told.

        Args:
            clip: largest gradient norm; 0: no clipping.
            half: whether the forward pass computes in bfloat16.
            numbers: of the model's parameters.
        """
        zero: dict[str, Any] = {
            "stage": self.stage,
            "overlap_comm": False,
            "reduce_bucket_size": max(1, min(BUCKET, numbers)),
            "allgather_bucket_size": max(1, min(BUCKET, numbers)),
        }
        if self.offload:
            zero["offload_optimizer"] = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
        if self.stage == 3:
            # Averaged weights are swapped into the parts: nothing whole may outlive the layer that needed it.
            zero |= {"stage3_param_persistence_threshold": 0, "stage3_max_reuse_distance": 0}
            zero |= {"memory_efficient_linear": False, "override_module_apply": False}  # both patch torch for good
        return {
            "train_micro_batch_size_per_gpu": 1,  # it scales nothing here: a loss is that of the whole batch
            "gradient_accumulation_steps": 1,
            "gradient_clipping": clip,
            "steps_per_print": None,
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,
            "zero_optimization": zero,
            # The names of layers whose gradients would travel as bfloat16: none.
            "torch_autocast": {"enabled": half, "dtype": "bfloat16", "lower_precision_safe_modules": []},
        }

    def spread(self, model: nn.Module) -> nn.Module:
        return model

    def adopt(self, called: nn.Module, optimiser: Optimizer, clip: float, half: bool) -> nn.Module:
        if not dist.is_initialized():
            return called
        held = [p for p in called.parameters() if p.requires_grad]
        os.environ.setdefault("DS_ACCELERATOR", "cuda" if held[0].is_cuda else "cpu")
        import deepspeed

        # On CPUs DeepSpeed would compile a collective of its own, which takes a compiler and half a minute.
        deepspeed.ops.__compatible_ops__.pop("deepspeed_shm_comm", None)
        warnings.filterwarnings("ignore", r"`torch\.distributed\.\w+` is deprecated", FutureWarning)
        logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
        if self.stage == 3:
            # A layer is gathered as a whole: what its parts hand each other need not be tensors, which hooks look for.
            layers = [m for child in called.children() if isinstance(child, nn.ModuleList) for m in child]
            for layer in layers:
                deepspeed.utils.set_z3_leaf_module(layer, True)
        order = [p for group in optimiser.param_groups for p in group["params"]]
        facts = [{k: v for k, v in group.items() if k != "params"} for group in optimiser.param_groups]
        counts = [len(group["params"]) for group in optimiser.param_groups]
        config = self.configuration(clip, half, sum(p.numel() for p in held))
        engine, *_ = deepspeed.initialize(model=called, optimizer=optimiser, config=config)
        return Engine(engine, order, counts, facts)

    def summing(self, called: nn.Module, last: bool) -> AbstractContextManager[None]:
        return _boundary(called, last)

    def backward(self, called: nn.Module, loss: Tensor) -> None:
        if isinstance(called, Engine):
            called.engine.backward(loss, scale_wrt_gas=False)
        else:
            loss.backward()

    def update(self, called: nn.Module, optimiser: Optimizer, clip: float, culprit: Callable[[], RunFailed]) -> Tensor:
        if not isinstance(called, Engine):
            return super().update(called, optimiser, clip, culprit)
        called.engine.step()
        norm = float(called.engine.get_global_grad_norm())
        if not math.isfinite(norm):
            raise RunFailed(
                "the norm of the gradients is not finite; --strategy ddp names the module that is to blame; try a "
                "lower --train.lr, a smaller --train.clip or --train.precision fp32"
            )
        return torch.tensor(norm)

    def held(self, tensor: Tensor) -> Tensor:
        return getattr(tensor, "ds_tensor", tensor)

    def full(self, tensor: Tensor, like: Any) -> Tensor:
        if not hasattr(like, "ds_tensor") or tensor.shape != like.ds_tensor.shape:
            return tensor
        parts = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, tensor.detach().contiguous())
        return torch.cat(parts)[: like.ds_numel].view(like.ds_shape)

    def part(self, tensor: Tensor, like: Tensor) -> Tensor:
        if not hasattr(like, "ds_tensor"):
            return tensor
        size = like.ds_tensor.numel()
        own = tensor.flatten()[dist.get_rank() * size :][:size]
        return nn.functional.pad(own, (0, size - len(own)))

    def put(self, called: nn.Module, model: nn.Module, state: Mapping[str, Tensor]) -> None:
        if not isinstance(called, Engine):
            super().put(called, model, state)
            return
        with torch.no_grad():
            for name, value in model.state_dict(keep_vars=True).items():
                self.held(value).copy_(self.part(state[name], value))
        called.engine.optimizer.refresh_fp32_params()

    def moments(self, called: nn.Module, optimiser: Optimizer) -> dict[str, Any]:
        return called.moments(optimiser) if isinstance(called, Engine) else super().moments(called, optimiser)

    def put_moments(self, called: nn.Module, optimiser: Optimizer, state: dict[str, Any]) -> None:
        if isinstance(called, Engine):
            called.put_moments(state["state"])
        else:
            super().put_moments(called, optimiser, state)


@final
class Engine(Shared):
    """DeepSpeed's engine as the steps call it, with the optimiser's parameters as they were before it was made."""

    engine: Any

    def __init__(self, engine: nn.Module, order: list[Tensor], counts: list[int], facts: list[dict[str, Any]]) -> None:
        super().__init__(engine)
        self.__dict__["engine"] = engine  # beside the module `network`, which it is, for what only an engine has
        self._order, self._counts, self._facts = order, counts, facts
        zero: Any = engine.optimizer
        parted = hasattr(zero, "fp32_partitioned_groups_flat")
        flats = zero.fp32_partitioned_groups_flat if parted else zero.single_partition_of_fp32_groups
        # DeepSpeed looks for the moments after the first group's first step, when the other groups have none yet.
        self._states: list[dict[str, Tensor]] = [
            {"step": torch.tensor(0.0), **{name: torch.zeros_like(flat) for name in MOMENTS}} for flat in flats
        ]
        zero.optimizer.state.update(zip(flats, self._states, strict=True))
        if not parted:
            zero._lazy_init_hp_params_optimizer_state()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Nothing: the engine forgets gradients when it has stepped, and keeps the memory of some."""

    def moments(self, optimiser: Optimizer) -> dict[str, Any]:
        """`state_dict` of the optimiser as one process has it."""
        from deepspeed.utils import safe_get_full_optimizer_state

        now = [{k: v for k, v in group.items() if k != "params"} for group in optimiser.param_groups]
        filled = iter(now)
        groups, begin = [], 0
        for count, facts in zip(self._counts, self._facts, strict=True):
            told = next(filled) if count else facts  # DeepSpeed drops a group without parameters
            groups.append({k: told[k] for k in facts} | {"params": [*range(begin, begin + count)]})
            begin += count
        state: dict[int, dict[str, Tensor]] = {}
        for i, p in enumerate(self._order):
            state[i] = {name: safe_get_full_optimizer_state(p, name).clone() for name in MOMENTS}
            state[i]["step"] = self._states[0]["step"].clone()
        return {"state": state, "param_groups": groups}

    def put_moments(self, state: Mapping[int, Mapping[str, Tensor]]) -> None:
        """Take over what `moments` gave, here or in another process."""
        from deepspeed.utils import safe_set_full_optimizer_state

        for i, p in enumerate(self._order):
            for name in MOMENTS:
                if i in state:
                    safe_set_full_optimizer_state(p, state[i][name].to(p.device), name)
        for own in self._states:
            own["step"].copy_(max((s["step"] for s in state.values()), default=torch.zeros(())))


@contextmanager
def _boundary(called: nn.Module, last: bool) -> Iterator[None]:
    if isinstance(called, Engine):
        called.engine.set_gradient_accumulation_boundary(last)
    yield
