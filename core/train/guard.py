"""When a loss is not finite: which module was the first to say so?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from core.errors import RunFailed


def name_culprit(model: nn.Module, again: Sequence[Callable[[], Tensor]], step: int) -> RunFailed:
    """Repeat the failing step and name the first module whose output, or the last whose gradient, is not finite.

    Args:
        model: the model as it stood before the step.
        again: each repeats the forward pass of one batch of the step, with the same noise, and returns the loss.
        step: for the message.
    """
    first: list[str] = []
    handles = [
        module.register_forward_hook(_watch(name or "the model", first)) for name, module in model.named_modules()
    ]
    try:
        losses = [repeat() for repeat in again]
    finally:
        for handle in handles:
            handle.remove()
    advice = "try a lower --train.lr, a smaller --train.clip or --train.precision fp32"
    if first:
        return RunFailed(f"step {step}: the output of {first[0]} is not finite; {advice}")
    loss = torch.stack(losses).sum()
    if not torch.isfinite(loss):
        return RunFailed(f"step {step}: every module's output is finite but the loss is {loss.item()}; {advice}")
    model.zero_grad(set_to_none=True)
    loss.backward()
    bad = [n for n, p in model.named_parameters() if p.grad is not None and not torch.isfinite(p.grad).all()]
    model.zero_grad(set_to_none=True)
    where = f"the gradient of {bad[-1]}" if bad else "the gradient norm"
    return RunFailed(f"step {step}: {where} is not finite ({len(bad)} parameters in all); {advice}")


def _watch(name: str, first: list[str]) -> Callable[..., None]:
    def hook(module: nn.Module, given: Any, out: Any) -> None:
        if not first and not all(torch.isfinite(t).all() for t in _tensors(out)):
            first.append(f"{name} ({type(module).__name__})")

    return hook


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value] if value.is_floating_point() else []
    if isinstance(value, dict):
        return [t for v in value.values() for t in _tensors(v)]
    if isinstance(value, (tuple, list)):
        return [t for v in value for t in _tensors(v)]
    return []
