"""Samples that some metrics need beside one prediction: several draws, and cells made jointly from nothing.

N cells, F values of a cell, K draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import attrs
import numpy as np
import torch
from torch import nn

from core.kinds import Batch, Metric
from core.score import MODEL
from core.train.streams import Streams
from plugins.systems.spatial.fields import MODALITIES
from plugins.systems.spatial.generate import Sampler, some

JOINT = "joint"
DRAWS = 16
"""samples of each modality where a metric asks for draws: central intervals from 1/17 to 15/17"""
REAL, UNPAIRED = "training cells", "training cells, unpaired"
"""arms of the joint task: pairs as good as real ones, and places that know nothing of the expression beside them"""
MADE = 2048
"""cells that an evaluation makes from nothing, over its sections in order; of a first larger one as many as these"""


@final
@attrs.frozen(kw_only=True, eq=False)
class Extra:
    """What was drawn for one unit."""

    draws: dict[str, np.ndarray]
    """(K, N, F) by modality; empty where no metric asks"""
    joint: dict[str, np.ndarray]
    """one joint sample (N, F) by modality; empty where no metric asks"""

    def beside(self, modality: str, arm: str, unit: Batch, true: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """What a metric of a modality may need behind the prediction of an arm and its truth."""
        found = {"place": true["position"]}
        type_N = unit.fields["cell_type"][0][unit.real_BN[0]].cpu().numpy()
        if (type_N >= 0).any():
            found["cell_type"] = type_N
        if arm == MODEL and modality in self.draws:
            found["draws"] = self.draws[modality]
        return found

    def made(self, known: dict[str, np.ndarray], rng: np.random.Generator) -> dict[str, dict[str, np.ndarray]]:
        """Made cells by arm: the model's, and random training cells with and without their pairing."""
        if not self.joint or len(known["position"]) < 2:
            return {}
        # The odd ones, as the even ones are what coherence is measured by: no cell is to find itself.
        odd_n = np.arange(1, len(known["position"]), 2)
        one, other = odd_n[rng.integers(len(odd_n), size=(2, len(self.joint["position"])))]
        return {
            MODEL: self.joint,
            REAL: {m: known[m][one] for m in MODALITIES},
            UNPAIRED: {"expression": known["expression"][one], "position": known["position"][other]},
        }


@torch.no_grad()
def draw(
    system: Sampler,
    model: nn.Module,
    unit: Batch,
    metrics: Sequence[Metric],
    streams: Streams,
    index: int,
    learned: Sequence[str] = MODALITIES,
    made: int = MADE,
) -> Extra:
    """Sample what the metrics ask for, of the modalities that the model has learned, and nothing where none asks.

    `made` is how many cells at most are made jointly.
    """
    asked = {metric.of for metric in metrics if "draws" in metric.needs and metric.of in learned}
    draws = {
        m: np.stack(
            [
                system.sample(model, unit, (m,), streams.generator(f"eval:draws:{m}", index, k))[m][0].cpu().numpy()
                for k in range(DRAWS)
            ]
        )
        for m in MODALITIES
        if m in asked
    }
    joint: dict[str, np.ndarray] = {}
    cells = unit.real_BN.shape[1]
    if made and set(learned) == set(MODALITIES) and any(metric.of == JOINT for metric in metrics):
        rows = np.arange(min(made, cells)) * cells // min(made, cells)
        both = system.sample(model, some(unit, rows), MODALITIES, streams.generator("eval:joint", index))
        joint = {m: both[m][0].cpu().numpy() for m in MODALITIES}
    return Extra(draws=draws, joint=joint)
