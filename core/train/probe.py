"""What the gates of a model do on real input, seen from outside: no gate keeps state for this."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from core.kinds import GateLayer

BINS = 40
LOW, HIGH = 0.05, 0.95
"""scores beyond these count as saturated: the gate passes next to nothing, or next to everything"""


@contextmanager
def watch_gates(model: nn.Module) -> Iterator[dict[str, dict[str, Any]]]:
    """Inside the block every forward pass adds to the statistics; they are complete when it ends.

    Yields:
        module name -> mean, std, saturated share, counts of scores over `edges` (from 0 to 1).
    """
    sums: dict[str, list[Tensor]] = {}
    found: dict[str, dict[str, Any]] = {}
    handles = []
    for name, module in model.named_modules():
        if isinstance(module, GateLayer):
            handles.append(module.register_forward_pre_hook(_collect(name, sums)))  # type: ignore[attr-defined]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
    for name, (counts, moments, saturated) in sums.items():
        n, total, square = (float(v) for v in moments)
        mean = total / n
        found[name] = {
            "mean": mean,
            "std": max(square / n - mean**2, 0.0) ** 0.5,
            "saturated": float(saturated) / n,
            "counts": [int(c) for c in counts],
            "edges": [i / BINS for i in range(BINS + 1)],
        }


def _collect(name: str, sums: dict[str, list[Tensor]]) -> Any:
    @torch.no_grad()
    def hook(module: Any, given: tuple[Tensor, ...]) -> None:
        scores = module.scores(given[1])
        if scores is None:
            return
        s = scores.detach().double().reshape(-1).cpu()
        fresh = [
            torch.histc(s, BINS, 0.0, 1.0),
            torch.stack([torch.tensor(float(s.numel()), dtype=torch.float64), s.sum(), (s * s).sum()]),
            ((s < LOW) | (s > HIGH)).sum().double(),
        ]
        sums[name] = [a + b for a, b in zip(sums[name], fresh, strict=True)] if name in sums else fresh

    return hook
