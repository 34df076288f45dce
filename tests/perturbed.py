"""Small perturbation systems, trained for three steps, and what tests do with them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import attrs
import numpy as np
import pytest
import torch

from core.cli.choose import resolve_run
from core.kinds import Batch
from core.train.loop import Trainer
from core.train.streams import Streams
from plugins.systems.perturb import generate
from plugins.systems.perturb.cells import Cells
from plugins.systems.perturb.system import Perturb

SMALL = [
    "--system=perturb", "--data.genes=12", "--data.singles=4", "--data.doubles=5", "--data.cells=6", "--data.modules=2",
    "--data.sets.size=6", "--data.sets.per_batch=3", "--width=8", "--depth=1", "--attention.heads=2", "--sampling=2",
    "--extractor.k=2", "--backbone.frame.heads=2", "--backbone.frame.neighbours=3",
    "--backbone.frame.latent_bottleneck=4", "--train.steps=3", "--train.warmup=1", "--metrics=pearson_delta,mse",
]  # fmt: skip


def trainer(words: list[str]) -> Trainer:
    # Latents have steps of their own where they have a stage of their own.
    steps = [] if any(word.startswith("--time=") for word in words) else ["--latent_steps=2"]
    run = resolve_run([], [*SMALL, *steps, *words]).root
    return Trainer(
        system=run.system,
        source=run.data.open(),
        settings=run.train,
        strategy=run.strategy,
        device=torch.device("cpu"),
        seed=run.seed,
    )


@cache
def trained(*words: str) -> Trainer:
    """A trainer after three steps, whose outputs are no longer zero."""
    made = trainer([*words])
    for _ in range(made.total):
        made.step()
    return made


def unit_of(made: Trainer) -> Cells:
    """The first held-out condition."""
    return Cells.of(next(made.source.split("test", Streams(0)).units()))


def make(made: Trainer, cells: Cells, seed: int = 0, latent: torch.Tensor | None = None, **how: Any) -> np.ndarray:
    """Cells generated from the controls of others, by a system that is changed as said."""
    system = attrs.evolve(made.system, **how)
    with made.evaluating(), torch.no_grad():
        generator = torch.Generator().manual_seed(seed)
        return generate.raw(system, made.model, cells.given, generator, latent)


def calls(system: Perturb) -> int | None:
    """Evaluations of the field for one cell that the solver announces; None: it chooses its steps as it goes."""
    stages = system.time.stages(system.streams)
    steps = [system.latent_steps if stage == ("latent",) else system.sampling for stage in stages]
    each = [system.solver.calls(number) for number in steps]
    return None if None in each else sum(each)


def recorded(made: Trainer, monkeypatch: pytest.MonkeyPatch) -> list[tuple[dict, dict, tuple[str, ...]]]:
    """What the network is shown at each call of a generation: fields, times, streams asked for."""
    seen: list[tuple[dict, dict, tuple[str, ...]]] = []
    inner: Callable = made.model.network.forward

    def forward(fields: dict, times: dict, real: Any, **options: Any) -> Any:
        seen.append(({k: v.clone() for k, v in fields.items()}, dict(times), options["streams"]))
        return inner(fields, times, real, **options)

    monkeypatch.setattr(made.model.network, "forward", forward)
    return seen


def changed(batch: Batch, field: str, rows: torch.Tensor) -> Batch:
    """The batch with the features of some cells in reverse order."""
    fields = batch.fields | {field: batch.fields[field].clone()}
    fields[field][rows] = fields[field][rows].flip(-1)
    return Batch(fields, batch.real_BN, batch.units)
