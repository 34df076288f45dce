"""How much attention each cell receives, and how far gates are open at it, layer by layer.

n cells that are shown, P axes of space, D width, H heads, V value width of a head, Q queries, S sources, A anchors.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import attrs
import numpy as np
import torch
from torch import Tensor, nn

from core.kinds import Batch, GateLayer, NoWeights
from core.registry import installed
from core.train.streams import Streams
from plugins.systems.spatial.conditions import labels_of
from plugins.systems.spatial.fields import MODALITIES
from plugins.systems.spatial.generate import some

CELLS = 1000
"""most cells that are shown to the network at once: weights take memory with the square of their number"""
LAYERS = 3
"""layers that are mapped: the first, the middle one and the last"""


@torch.no_grad()
def mapped(model: nn.Module, unit: Batch, streams: Streams) -> tuple[dict[str, np.ndarray], list[str]]:
    """Maps of one set, shown clean; of a larger one, a random `CELLS` of its cells.

    Args:
        model: the network, in evaluation mode.
        unit: one set.
        streams: which cells are shown.

    Returns:
        `seen/<u>`: positions (n, P); `attention/<u>/<layer>`: what each cell receives, mean over heads and queries,
        over an even share (n,); `gate/<u>/<layer>`: the score of a cell, mean over heads and channels (n,). And a
        sentence where attention has no weights. Nothing where the network has neither weights nor gates.
    """
    rows = torch.nonzero(unit.real_BN[0]).flatten()
    chosen = torch.randperm(len(rows), generator=streams.generator("eval:maps"))[:CELLS].sort().values
    shown = some(unit, rows.cpu()[chosen].numpy())
    batch = shown.to(next(model.parameters()).device)
    name, notes = unit.units[0], []
    arrays: dict[str, np.ndarray] = {}
    with _listening(model) as (attentions, gates):
        _show(model, batch)
    for label, (layer, args, kwargs) in _few(attentions).items():
        try:
            with _plainly(layer):
                weights_BHQS: Tensor = layer.weights(*args, **kwargs)  # type: ignore[operator]
        except NoWeights as error:
            notes.append(f"There is no map of attention: {error}.")
            break
        received_S = weights_BHQS[0].float().mean((0, 1))
        # Anchors stand before the cells.
        arrays[f"attention/{name}/{label}"] = (received_S[-len(chosen) :] * len(chosen)).cpu().numpy()
    for label, (gate, args, _) in _few(gates).items():
        scores = gate.scores(args[1])  # type: ignore[operator]
        if scores is not None and scores.shape[1] == len(chosen):
            arrays[f"gate/{name}/{label}"] = scores[0].float().flatten(1).mean(1).cpu().numpy()
    if arrays:
        arrays[f"seen/{name}"] = shown.fields["position"][0].numpy()
    return arrays, notes


Calls = dict[str, tuple[nn.Module, tuple[Any, ...], dict[str, Any]]]
"""by layer: a module and the arguments of its last call"""


@contextmanager
def _listening(model: nn.Module) -> Iterator[tuple[Calls, Calls]]:
    """The calls of attentions and of gates inside the block; of attentions within attentions the outer one."""
    attentions: Calls = {}
    gates: Calls = {}
    outer = ""
    handles = []

    def hear(calls: Calls, label: str) -> Any:
        def keep(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            calls[label] = (module, args, kwargs)

        return keep

    for name, module in model.named_modules():
        calls = None
        if isinstance(module, GateLayer):
            calls = gates
        elif callable(getattr(module, "weights", None)) and not (outer and name.startswith(f"{outer}.")):
            calls, outer = attentions, name
        if calls is not None:
            number = re.search(r"\d+", name)
            label = f"layer {number.group()}" if number else name
            handles.append(module.register_forward_pre_hook(hear(calls, label), with_kwargs=True))
    try:
        yield attentions, gates
    finally:
        for handle in handles:
            handle.remove()


def _show(model: nn.Module, batch: Batch) -> None:
    """One call of the network on clean input, every modality at time 1, positions centred."""
    fields = {m: batch.fields[m].float() for m in MODALITIES}
    fields["position"] = fields["position"] - fields["position"].mean(1, keepdim=True)
    labels = labels_of(model)
    fields |= {} if labels is None else labels.codes(batch, None)
    ones_B = torch.ones(1, device=batch.real_BN.device)
    model(fields, dict.fromkeys(MODALITIES, ones_B), batch.real_BN)


@contextmanager
def _plainly(layer: nn.Module) -> Iterator[None]:
    """The plain kernel inside the block: one for local masks would gather a column of values for every cell."""
    plugin: Any = getattr(layer, "plugin", None)
    if not hasattr(plugin, "kernel"):
        yield
        return
    layer.plugin = attrs.evolve(plugin, kernel=installed().find("kernel", "reference").row.load()())
    try:
        yield
    finally:
        layer.plugin = plugin


def _few(calls: Calls) -> Calls:
    """The first, the middle and the last of some layers."""
    chosen = sorted(set(np.linspace(0, len(calls) - 1, LAYERS).round().astype(int).tolist())) if calls else []
    return {label: call for i, (label, call) in enumerate(calls.items()) if i in chosen}
