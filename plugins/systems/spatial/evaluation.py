"""A trained network on held-out sections, beside what learns nothing or little.

N cells.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from core.kinds import Evaluation, Source
from core.score import MODEL
from core.train.streams import Streams
from plugins.systems.spatial import extra
from plugins.systems.spatial.fields import MODALITIES
from plugins.systems.spatial.judge import SAMPLE, Arms, Judge, cells_of, types_in
from plugins.systems.spatial.maps import CELLS, mapped
from plugins.systems.spatial.watch import watching

if TYPE_CHECKING:
    from plugins.systems.spatial.system import Spatial


@torch.no_grad()
def evaluated(system: Spatial, model: nn.Module, source: Source, split: str, streams: Streams) -> Evaluation:
    """Scores of what the mode learns, unit by unit; see `core.kinds.System.evaluate`."""
    train = [cells_of(batch) | {"cell_type": types_in(batch)} for batch in source.split("train", streams).units()]
    known = {m: np.concatenate([part[m] for part in train]) for m in (*MODALITIES, "cell_type")}
    device = next(model.parameters()).device
    judge = Judge(system.metrics)
    held = source.split(split, streams)
    cells = {unit.units[0]: int(unit.real_BN.sum()) for unit in held.units()}
    chosen = judge.choose(cells)
    # One section is mapped: the first that is shown whole, else the first.
    shown = next((name for name in chosen if cells[name] <= CELLS), next(iter(chosen), None))
    left = extra.MADE
    for index, unit in enumerate(held.units()):
        if unit.units[0] not in chosen:
            continue
        if unit.units[0] == shown:
            arrays, notes = mapped(model, unit, streams)
            judge.arrays |= arrays
            judge.notes += notes
        arms: dict[str, Arms] = {}
        for m in system.learned:
            mean = system.expect(model, unit.to(device), (m,), streams.generator(f"eval:{m}", index))
            with watching(model) as watch:
                one = system.sample(model, unit.to(device), (m,), streams.generator(f"eval:{m}", index))
            if m == "position":
                judge.watched(unit, watch)
            arms[m] = {MODEL: mean[m][0].cpu().numpy(), SAMPLE: one[m][0].cpu().numpy()}
        fits = cells[unit.units[0]] <= left or left == extra.MADE
        more = extra.draw(
            system, model, unit.to(device), system.metrics, streams, index, system.learned, left if fits else 0
        )
        left -= len(more.joint.get("position", ()))
        judge.add(unit, arms, known, source, streams.generator("eval", index), more)
    if system.conditions:
        judge.notes.append(
            f"The model is told the {' and the '.join(system.conditions).replace('_', ' ')} of each cell where it is "
            "known; the baselines are not."
        )
    if system.readout == "mean_of":
        aligned = ", each turned onto the first" if system.aligns else ""
        return judge.evaluation(f"the mean of {system.draws} samples{aligned}")
    return judge.evaluation()
