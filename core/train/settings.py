"""The parameters of a run, whatever its system."""

from __future__ import annotations

from typing import Literal

from core.kinds.data import Data
from core.kinds.executor import Executor
from core.kinds.strategy import Strategy
from core.kinds.system import System
from core.kinds.tracker import Tracker
from core.params import group, knob, params, slot


@params
class Train:
    """How long and how a model is trained."""

    steps: int = knob(400, "optimiser steps; 0: as many as `epochs` needs", ge=0)
    epochs: float = knob(0.0, "passes over the training data, in place of `steps`; 0: `steps` decides", ge=0.0)
    lr: float = knob(1e-3, "peak learning rate", gt=0.0)
    min_lr: float = knob(0.02, "learning rate at the end, as a share of the peak", ge=0.0, le=1.0)
    warmup: int = knob(40, "steps of linear warm-up", ge=0)
    betas: tuple[float, ...] = knob((0.9, 0.99), "decay of AdamW's two moments")
    weight_decay: float = knob(0.01, "decoupled weight decay of matrices", ge=0.0, source="Loshchilov & Hutter 2019")
    clip: float = knob(1.0, "largest gradient norm; 0: no clipping", ge=0.0)
    accumulate: int = knob(1, "batches a step", ge=1)
    ema: float = knob(0.99, "decay of the averaged weights that are evaluated; 0: none", ge=0.0, lt=1.0)
    precision: Literal["fp32", "bf16"] = knob("fp32", "arithmetic of the forward pass")
    validate_every: int = knob(100, "steps between validations; 0: only at the end", ge=0)
    patience: int = knob(
        0, "validations without improvement before stopping early; 0: never", ge=0, acts="validate_every!=0"
    )
    checkpoint_every: int = knob(100, "steps between checkpoints; 0: only at the end", ge=0, identity=False)
    keep: int = knob(2, "checkpoints kept", ge=1, identity=False)
    log_every: int = knob(10, "steps between lines of metrics.jsonl", ge=1, identity=False)

    def __attrs_post_init__(self) -> None:
        if not self.steps and not self.epochs:
            raise ValueError("steps and epochs are both 0, so there is nothing to train")
        if len(self.betas) != 2 or not all(0 <= b < 1 for b in self.betas):
            raise ValueError(f"betas are two numbers in [0, 1), got {list(self.betas)}")


@params
class Run:
    """One training run."""

    system: System = slot(None, "the task", inline=True)
    recipe: str = knob("", "a named set of choices for the system; see `core list recipe`")
    data: Data = slot(None, "what to train on: a name, or a file")
    seed: int = knob(0, "seed of all random streams", ge=0)
    train: Train = group("how long and how the model is trained")
    device: Literal["auto", "cpu", "cuda"] = knob("auto", "where the steps run", identity=False)
    devices: int = knob(
        0,
        "processes that share the sets of each batch, one a device; 0: as many as torchrun started, else one",
        ge=0,
        identity=False,
    )
    strategy: Strategy = slot(None, "one process or many")
    executor: Executor = slot(None, "where several runs run", identity=False)
    tracker: Tracker = slot(None, "where curves go", identity=False)
