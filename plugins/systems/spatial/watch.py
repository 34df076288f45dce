"""What happens inside while a section is sampled: the states on the way, and which expert serves which cell type.

N cells, P axes of space, S states, D width, T types, E experts.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, final

import attrs
import numpy as np
import torch
from torch import Tensor, nn

from core.kinds.ffn import RoutedLayer

STATES = 5
"""of the way that are kept, evenly from first to last, the result not counted"""


@final
@attrs.define(eq=False)
class Watch:
    """Filled while `watching`; complete when it ends."""

    states: list[Tensor] = attrs.field(factory=list)
    """positions (N, P) as the network was shown them at each call: noisy ones, shrunk to what they tell"""
    inputs: dict[str, Tensor] = attrs.field(factory=dict)
    """input (1, N, D) of each feed-forward layer at the last call"""
    layers: dict[str, nn.Module] = attrs.field(factory=dict)

    def way(self) -> np.ndarray:
        """A few states in order (S, N, P)."""
        chosen = np.unique(np.linspace(0, len(self.states) - 1, STATES).round().astype(int))
        return np.stack([self.states[i].cpu().numpy() for i in chosen])

    @torch.no_grad()
    def experts(self, type_N: np.ndarray) -> dict[str, np.ndarray]:
        """For each layer with experts the share (T, E) of each type's assignments that each expert gets.

        Types run from 0 to the largest code; a type without a cell has a row of 0. Empty where no layer routes.
        """
        found = {}
        count = int(type_N.max()) + 1 if len(type_N) else 0
        for name, x_BND in self.inputs.items():
            rows = []
            for code in range(count):
                here = torch.from_numpy(np.flatnonzero(type_N == code)).to(x_BND.device)
                stats = self.layers[name](x_BND[:, here], None)[1].stats if len(here) else {}
                rows.append(stats["load"].float().cpu().numpy() if "load" in stats else None)
            width = next((len(row) for row in rows if row is not None), 0)
            if width:
                found[name] = np.stack([np.zeros(width) if row is None else row for row in rows])
        return found


@contextmanager
def watching(model: nn.Module) -> Iterator[Watch]:
    """Inside the block every call of the network for one set is watched."""
    watch = Watch()

    def shown(module: nn.Module, given: tuple[Any, ...]) -> None:
        watch.states.append(given[0]["position"][0].detach().float())

    def entered(name: str) -> Any:
        def keep(module: nn.Module, given: tuple[Any, ...]) -> None:
            watch.inputs[name] = given[0].detach()

        return keep

    handles = [model.register_forward_pre_hook(shown)]
    routed = [module for module in model.modules() if isinstance(module, RoutedLayer)]
    for index, layer in enumerate(routed):
        name = f"layer {index}"
        watch.layers[name] = layer
        handles.append(watch.layers[name].register_forward_pre_hook(entered(name)))
    try:
        yield watch
    finally:
        for handle in handles:
            handle.remove()
