"""Activations that are computed again in the backward pass in place of being kept (Chen et al. 2016, arXiv:1604.06174).

The second pass draws the very numbers of the first: random modules are set back to where they stood, and auxiliary
losses are told again where somebody listened. So losses and gradients are those of a pass that keeps everything, to
the bit on the CPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from core.nn.auxiliary import heard, listen
from core.train.streams import stochastic

_repeating: ContextVar[bool] = ContextVar("_repeating", default=False)


def repeating() -> bool:
    """Whether this forward pass repeats an earlier one for its gradients; what counts passes leaves it out."""
    return _repeating.get()


def recomputed(module: nn.Module, *given: Any) -> Any:
    """`module(*given)`, of which only the inputs are kept for the backward pass.

    Outside training, and on meta tensors, where FLOPs are counted and nothing is kept, the module is simply called.

    Args:
        module: draws numbers through `core.train.streams` alone, and changes no buffer.
        given: its arguments by position; gradients reach the tensors among them.
    """
    on_meta = any(isinstance(x, torch.Tensor) and x.is_meta for x in given)
    if on_meta or not module.training or not torch.is_grad_enabled():
        return module(*given)
    random = list(stochastic(module).values())
    begun = [one.mark() for one in random]
    listened, first = heard(), True

    def run(*again: Any) -> Any:
        nonlocal first
        if first:
            first = False
            return module(*again)
        ended = [one.mark() for one in random]
        for one, mark in zip(random, begun, strict=True):
            one.go_back(mark)
        try:
            with _repeated(), listen() if listened else nullcontext():
                return module(*again)
        finally:
            for one, mark in zip(random, ended, strict=True):
                one.go_back(mark)

    return checkpoint(run, *given, use_reentrant=False, preserve_rng_state=False)


@contextmanager
def _repeated() -> Iterator[None]:
    token = _repeating.set(True)
    try:
        yield
    finally:
        _repeating.reset(token)
