"""What the gates of a model do on real input, seen from outside: no gate keeps state for this.

A gate is healthy while its mean score lies in `MEAN`, its scores have a standard deviation of at least `SPREAD`, and at
most `SATURATED` of them are saturated; padding is left out of all three. The range is wide on purpose: gates of good
language models are sparse, with mean scores of 0.12 by channel and 0.17 by head (Qiu et al. 2025, arXiv:2505.06708),
and only a gate that is shut, open or constant for nearly every token is one that might as well not be there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from core.kinds import GateLayer
from core.nn.auxiliary import listen

BINS = 40
LOW, HIGH = 0.05, 0.95
"""scores beyond these count as saturated: the gate passes next to nothing, or next to everything"""
MEAN, SPREAD, SATURATED = (0.02, 0.98), 1e-3, 0.95
SETTLED = 0.1
"""share of the training before which no gate is judged: some start constant, or open"""
LEAST = 50
"""optimiser steps before which no gate is judged, however short the training: by then a constant start has moved"""
STATS = "stat/gate/"
"""what the keys of gate statistics in metrics.jsonl begin with"""


@contextmanager
def watch_gates(model: nn.Module, most: int | None = None) -> Iterator[dict[str, dict[str, Any]]]:
    """Inside the block every forward pass adds to the statistics; they are complete when it ends.

    Args:
        model: holds the gates. Of a gate that is made of gates, such as `dual`, the inner ones are watched.
        most: real tokens of a forward pass that are looked at, spread evenly; None: all of them.

    A gate is called without the padding, and what calls it knows: `real_BS` of the attention that holds it, or, of
    cross attention, `real_BQ` of its layout. Where neither is given nothing counts as padded.

    Yields:
        module name -> mean, std, saturated share, counts of scores over `edges` (from 0 to 1).
    """
    sums: dict[str, list[Tensor]] = {}
    found: dict[str, dict[str, Any]] = {}
    handles = []
    modules = dict(model.named_modules())
    real: dict[str, Tensor | None] = {}
    for name, module in modules.items():
        if not isinstance(module, GateLayer) or _holds_gates(module):
            continue
        holder = _holder(name, modules)
        handles.append(module.register_forward_pre_hook(_collect(name, holder, real, sums, most)))  # type: ignore[attr-defined]
        if holder is not None and holder not in real:
            real[holder] = None
            handles.append(modules[holder].register_forward_pre_hook(_note(holder, real), with_kwargs=True))
            handles.append(modules[holder].register_forward_hook(_forget(holder, real), always_call=True))
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


def gate_numbers(gates: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Mean, spread and saturated share of each gate, as they stand in metrics.jsonl."""
    return {f"{STATS}{name}/{key}": gate[key] for name, gate in gates.items() for key in ("mean", "std", "saturated")}


def unhealthy(mean: float, std: float, saturated: float) -> str | None:
    """What is wrong with a gate of these statistics, as a half sentence; None for a healthy one."""
    low, high = MEAN
    if mean < low:
        return f"it shuts nearly everything out (mean score {mean:.3g}, healthy from {low:g}); raise its bias"
    if mean > high:
        return f"it lets nearly everything pass (mean score {mean:.3g}, healthy to {high:g}); lower its bias"
    if saturated > SATURATED:
        return (
            f"{saturated:.0%} of its scores are below {LOW:g} or above {HIGH:g} (healthy to {SATURATED:.0%}); "
            "limit its weights (spectral) or choose the gate tempered"
        )
    if std < SPREAD:
        return f"all its scores are alike (standard deviation {std:.2g}, healthy from {SPREAD:g}); it is a constant"
    return None


def judge_gates(records: Iterable[Mapping[str, float]], total: int) -> dict[str, str]:
    """One sentence for each gate that left the healthy range once training had settled.

    A training that ends within its first `LEAST` steps judges none.

    Args:
        records: lines of metrics.jsonl, or the numbers of one step with its `step`.
        total: steps of the whole training.
    """
    found: dict[str, str] = {}
    for record in records:
        if record["step"] < max(SETTLED * total, LEAST):
            continue
        for key in record:
            name = key.removeprefix(STATS).removesuffix("/mean")
            if key != f"{STATS}{name}/mean" or name in found:
                continue
            wrong = unhealthy(*(record[f"{STATS}{name}/{stat}"] for stat in ("mean", "std", "saturated")))
            if wrong is not None:
                found[name] = f"gate {name}, step {record['step']:.0f}: {wrong}"
    return found


def _holds_gates(module: Any) -> bool:
    return any(isinstance(inner, GateLayer) for inner in module.modules() if inner is not module)


def _holder(name: str, modules: Mapping[str, nn.Module]) -> str | None:
    """The name of the nearest module above a gate that is no gate itself: the attention, which knows the padding."""
    while name:
        name = name.rpartition(".")[0]
        if not isinstance(modules[name], GateLayer):
            return name
    return None


def _note(holder: str, real: dict[str, Tensor | None]) -> Any:
    def hook(module: Any, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        layout = named.get("layout")
        crossed = named.get("context_BSD") is not None
        real[holder] = getattr(layout, "real_BQ", None) if crossed else named.get("real_BS")

    return hook


def _forget(holder: str, real: dict[str, Tensor | None]) -> Any:
    def hook(module: Any, given: tuple[Any, ...], found: Any) -> None:
        real[holder] = None

    return hook


def _collect(
    name: str, holder: str | None, real: Mapping[str, Tensor | None], sums: dict[str, list[Tensor]], most: int | None
) -> Any:
    @torch.no_grad()
    def hook(module: Any, given: tuple[Tensor, ...]) -> None:
        x_BQD = given[1]
        real_BQ = None if holder is None else real[holder]
        if real_BQ is not None:
            x_BQD = x_BQD[real_BQ][None]
        if not x_BQD.shape[1]:
            return
        tokens = x_BQD.shape[0] * x_BQD.shape[1]
        if most is not None and tokens > most:  # a token's scores are its own affair, whatever stands beside it
            x_BQD = x_BQD.flatten(0, 1)[None, :: -(-tokens // most)]
        with listen():  # what the gate tells of its weights was told by the pass itself, and must not count twice
            scores = module.scores(x_BQD)
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
