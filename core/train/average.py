"""The exponential moving average of the weights (Polyak averaging), which is what gets evaluated."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Average:
    """Averaged weights of a model; with decay 0 it holds nothing and `swapped` changes nothing.

    `held` says what this process holds of a parameter, which is what it averages.
    """

    def __init__(self, model: nn.Module, decay: float, held: Callable[[Tensor], Tensor] = lambda p: p) -> None:
        self.decay, self.held = decay, held
        self.weights: dict[str, Tensor] = {}
        if decay > 0:
            self.weights = {name: p.detach().clone() for name, p in self._now(model).items()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Move towards the weights after step `step`; early steps are forgotten faster."""
        if not self.weights:
            return
        decay = min(self.decay, (1 + step) / (10 + step))
        named = self._now(model)
        torch._foreach_lerp_([self.weights[n] for n in self.weights], [named[n] for n in self.weights], 1 - decay)

    def load(self, weights: dict[str, Tensor]) -> None:
        """Take over saved weights."""
        for name, value in weights.items():
            self.weights[name].copy_(value)

    @contextmanager
    def swapped(self, model: nn.Module) -> Iterator[None]:
        """Inside the block the model carries the averaged weights."""
        if not self.weights:
            yield
            return
        named = self._now(model)
        kept = {name: p.detach().clone() for name, p in named.items()}
        with torch.no_grad():
            for name, value in self.weights.items():
                named[name].copy_(value)
        try:
            yield
        finally:
            with torch.no_grad():
                for name, value in kept.items():
                    named[name].copy_(value)

    def _now(self, model: nn.Module) -> dict[str, Tensor]:
        return {name: self.held(p) for name, p in model.named_parameters()}
