"""What the network makes of each cell, from clean input.

N cells, D width.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import torch
from torch import nn

from core.kinds import Batch, Tokens
from core.nn.padding import centred
from core.train.streams import Streams
from plugins.systems.spatial.conditions import labels_of
from plugins.systems.spatial.fields import MODALITIES
from plugins.systems.spatial.generate import patches, some

LAYERS = "last", "encoder"
"""`last`: after all layers, and the final norm if there is one, where a cell has read the others; `encoder`: before the
first layer"""


@torch.no_grad()
def embed(model: nn.Module, unit: Batch, layer: str, known: Collection[str], *, patch: int) -> np.ndarray:
    """Embeddings (N, D) of the cells of a set; see `core.kinds.System.embed`.

    What is known is shown clean, at time 1; what is not is shown as the network sees pure noise, as 0 at time 0, which
    training visits too. Positions are centred. A set of more than `patch` cells is shown in random subsets.
    """
    named = dict(model.named_modules())
    last = named["norm"] if "norm" in named else [*named["layers"].children()][-1]
    module = named["encoder"] if layer == "encoder" else last
    labels = labels_of(model)
    kept: list[torch.Tensor] = []

    def keep(module: nn.Module, given: Any, out: Any) -> None:
        kept.append(out.x_BTD if isinstance(out, Tokens) else out[0] if isinstance(out, tuple) else out)

    device = next(model.parameters()).device
    parts, _ = patches(unit.real_BN.shape[1], patch, Streams(0).generator("embed:patch"), joined=False)
    found: list[np.ndarray] = []
    handle = module.register_forward_hook(keep)
    try:
        for rows in parts:
            batch = some(unit, rows).to(device)
            fields = {m: batch.fields[m].float() if m in known else batch.fields[m].float() * 0 for m in MODALITIES}
            fields["position"] = centred(fields["position"], None)
            times = {m: torch.full((1,), 1.0 if m in known else 0.0, device=device) for m in MODALITIES}
            fields |= {} if labels is None else labels.codes(batch, None)
            model(fields, times, batch.real_BN)
            found.append(kept.pop()[0].float().cpu().numpy())
    finally:
        handle.remove()
    whole_ND = np.empty((unit.real_BN.shape[1], found[0].shape[1]), np.float32)
    for rows, values in zip(parts, found, strict=True):
        whole_ND[rows] = values
    return whole_ND
