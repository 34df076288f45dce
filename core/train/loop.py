"""The training loop: steps, validation, checkpoints. It knows a system, a source and streams, and nothing of cells.

A step is a function of the weights, the optimiser's state and the step's number alone: batches are addressed by
(epoch, index) and noise by the step, so a run that is killed and taken up again ends bit-identical on the CPU.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import attrs
import numpy as np
import torch
from torch import Tensor, nn

from core.errors import RunFailed
from core.kinds import Batch, Source, Split, Strategy, System, Terms, Track
from core.nn.auxiliary import listen
from core.train.average import Average
from core.train.between import tell_step_taken
from core.train.checkpoint import Checkpoint, latest, load, save
from core.train.guard import name_culprit
from core.train.probe import gate_numbers, judge_gates, watch_gates
from core.train.ranks import anyone, first_says, leave, lost
from core.train.rundir import RunDir
from core.train.schedule import advance
from core.train.settings import Train
from core.train.streams import Streams, stochastic, stream_seed

GATE_TOKENS = 256
"""tokens of a training batch whose gate scores are logged: what a mean and a share need, at a cost that is not felt"""
AUXILIARY = "train/auxiliary"
"""key of the part of the training loss that is none of the task's, in steps that have one"""
VALID_DRAWS = 4
"""draws of times and noise for each validation unit; the same in every validation"""


@attrs.define
class Place:
    """Where training stands; saved with every checkpoint."""

    step: int = 0
    """optimiser steps taken"""
    epoch: int = 0
    index: int = 0
    """next batch of the epoch"""
    best: float = math.inf
    stale: int = 0
    """validations since the best one"""


@attrs.frozen(kw_only=True)
class Listener:
    """How the loop reports; every call is cheap to ignore."""

    step: Callable[[int, dict[str, float]], None]
    """after each step"""
    valid: Callable[[int, dict[str, float]], None]
    """after each validation"""
    say: Callable[[str], None]
    """a sentence for the log"""


class Trainer:
    """One run's training, from its first step or from its newest checkpoint."""

    def __init__(
        self, *, system: System, source: Source, settings: Train, strategy: Strategy, device: torch.device, seed: int,
        fitted: Mapping[str, np.ndarray] | None = None,
    ) -> None:  # fmt: skip
        self.system, self.source, self.settings, self.strategy = system, source, settings, strategy
        self.device, self.streams = device, Streams(seed)
        self.train_split = source.split("train", self.streams)
        self.valid_split = source.split("valid", self.streams)
        with torch.random.fork_rng(devices=[]):  # construction draws first values that `initialise` replaces
            self.model = system.build(source.describe())
        self.streams.initialise(self.model)
        self.fitted = system.fit(source, self.streams) if fitted is None else fitted
        """what the model knows of the training split before its first step"""
        system.recall(self.model, self.fitted)
        self.model.to(device)
        self.random = stochastic(self.model)
        self.called = strategy.wrap(self.model)  # first of all: the parameters may become parts of themselves
        decaying = _groups(self.model, settings.weight_decay)
        first, second = settings.betas
        self.optimiser = torch.optim.AdamW(decaying, lr=settings.lr, betas=(first, second))
        self.called = strategy.adopt(self.called, self.optimiser, settings.clip, settings.precision == "bf16")
        self.average = Average(self.model, settings.ema, strategy.held)
        self.place = Place()
        self.saved = -1
        """step of the newest checkpoint that this process knows of"""
        self.best: dict[str, Tensor] = {}
        self.warned: set[str] = set()
        """gates that the log has warned of"""
        self.total = settings.steps
        if settings.epochs:
            batches = math.ceil(settings.epochs * self.train_split.batches(0))
            self.total = max(1, math.ceil(batches / settings.accumulate))

    def take_up(self, run: RunDir) -> int:
        """Go on from the newest checkpoint of a run; the step it stands at, 0 for none."""
        found = latest(run.path)
        if found is None:
            return 0
        state = load(found[1])
        self.strategy.put(self.called, self.model, state.model)
        here = self._state()
        self.average.load({name: self.strategy.part(v, here[name]) for name, v in state.average.items()})
        self.best = {name: self.strategy.part(v, here[name]) for name, v in state.best.items()}
        self.strategy.put_moments(self.called, self.optimiser, state.trainer["optimiser"])
        self.place = Place(**state.trainer["place"])
        self.warned = set(state.trainer["warned"])
        self.saved = self.place.step
        return self.place.step

    def fit(self, run: RunDir, track: Track, listener: Listener, stop: Callable[[], bool]) -> bool:
        """Train to the end; True when it was reached, False when `stop` asked to leave (a checkpoint is written).

        Raises:
            RunFailed: a loss or gradient is not finite, or a checkpoint cannot be written.
        """
        settings = self.settings

        def agreed() -> bool:
            return anyone(stop(), self.device)

        while self.place.step < self.total and not self._stale():
            if agreed():
                self.checkpoint(run)
                return False
            began = time.perf_counter()
            numbers = self.step()
            step = self.place.step
            if step == self.total:
                advance(self.model, 1.0)  # what moves while a model trains has arrived when it is judged
            numbers["seconds"] = time.perf_counter() - began
            listener.step(step, numbers)
            for gate, sentence in judge_gates([numbers | {"step": step}], self.total).items():
                if gate not in self.warned:
                    self.warned.add(gate)
                    listener.say(f"warning: {sentence}")
            if step % settings.log_every == 0 or step == self.total:
                track.log(step, {k: v for k, v in numbers.items() if k != "seconds"})
            due = settings.validate_every and step % settings.validate_every == 0
            if due or step == self.total:
                valid = first_says(self.validate(), self.device)
                if not all(math.isfinite(value) for value in valid.values()):
                    raise self._not_finite(step)
                track.log(step, valid)
                listener.valid(step, valid)
                self._judge(valid["valid/loss"])
            if settings.checkpoint_every and step % settings.checkpoint_every == 0 and step < self.total:
                self.checkpoint(run)
        if self._stale():
            listener.say(f"stopped early at step {self.place.step}: no better validation in {settings.patience} tries")
        self.checkpoint(run)
        if agreed():
            return False
        self._take_best()
        return True

    def checkpoint(self, run: RunDir) -> None:
        """Write the state after the current step; called on all processes, the first of which writes."""
        if self.saved == self.place.step:
            return
        self.saved = self.place.step
        trainer = {
            "optimiser": self.strategy.moments(self.called, self.optimiser),
            "place": attrs.asdict(self.place),
            "warned": sorted(self.warned),
        }
        model, average, best = (
            self.strategy.gather(self.model),
            self._whole(self.average.weights),
            self._whole(self.best),
        )
        if self.strategy.main():
            save(run.path, Checkpoint(self.place.step, model, average, best, trainer), self.settings.keep)

    def alone(self) -> None:
        """Leave the other processes: this one holds the whole trained model and goes on by itself."""
        state, average = self.strategy.gather(self.model), self._whole(self.average.weights)
        with torch.random.fork_rng(devices=[]):
            model = self.system.build(self.source.describe())
        self.streams.initialise(model)  # what is no part of a state
        self.system.recall(model, self.fitted)
        model.load_state_dict(state)
        advance(model, 1.0)
        self.model = self.called = model.to(self.device)
        self.average.weights = average
        leave()

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Losses of the averaged weights on the validation split, with the same times and noise every time."""
        fixed = Streams(stream_seed("valid", self.streams.seed))
        sums: dict[str, float] = {}
        count = 0
        with self.evaluating():
            for unit, batch in enumerate(self.valid_split.units()):
                for draw in range(VALID_DRAWS):
                    terms = self.system.step(self.model, batch.to(self.device), fixed, unit * VALID_DRAWS + draw)
                    for name, value in _numbers(terms, "valid").items():
                        if not name.startswith("stat/"):
                            sums[name] = sums.get(name, 0.0) + value
                    count += 1
        return {name: value / count for name, value in sums.items()}

    @contextlib.contextmanager
    def evaluating(self) -> Iterator[None]:
        """The model in evaluation mode, with its averaged weights."""
        self.model.eval()
        with self.average.swapped(self.model):
            yield
        self.model.train()

    def step(self) -> dict[str, float]:
        settings, step = self.settings, self.place.step
        self.called.train()
        advance(self.model, step / self.total)
        self.called.zero_grad()
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(settings, step, self.total)
        numbers: dict[str, float] = {}
        again: list[Callable[[], Tensor]] = []
        logged = (step + 1) % settings.log_every == 0 or step + 1 == self.total
        for micro in range(settings.accumulate):
            draw = step * settings.accumulate + micro
            batch = self._next(self.train_split).to(self.device)
            again.append(lambda b=batch, d=draw: self._again(b, d))  # type: ignore[misc]
            last = micro + 1 == settings.accumulate
            with self.strategy.sharing(self.called, len(batch.real_BN), last):
                if logged and micro == 0:
                    with watch_gates(self.model, GATE_TOKENS) as gates:
                        terms = self._forward(batch, draw)
                    numbers |= gate_numbers(gates)
                else:
                    terms = self._forward(batch, draw)
                loss = terms.total() / settings.accumulate
                if not torch.isfinite(loss):
                    raise name_culprit(self.model, again[-1:], step + 1)
                self.strategy.backward(self.called, loss)
            for name, value in _numbers(terms, "train").items():
                numbers[name] = numbers.get(name, 0.0) + value / settings.accumulate
        try:
            norm = self.strategy.update(
                self.called, self.optimiser, settings.clip, lambda: name_culprit(self.model, again, step + 1)
            )
        except RuntimeError as error:
            if lost(error):
                raise
            raise RunFailed(
                f"step {step + 1}: the optimiser cannot take the step ({error}); lower --train.lr"
            ) from error
        tell_step_taken(self.model)
        self.average.update(self.model, step)
        self.place.step += 1
        return numbers | {"lr": self.optimiser.param_groups[0]["lr"], "grad_norm": float(norm)}

    def _forward(self, batch: Batch, draw: int) -> Terms:
        self.streams.reseed(self.random, draw)
        half = self.settings.precision == "bf16"
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=half), listen() as told:
            terms = self.system.step(self.called, batch, self.streams, draw)
        return attrs.evolve(terms, auxiliary=terms.auxiliary | told)

    def _again(self, batch: Batch, draw: int) -> Tensor:
        with self.strategy.sharing(self.called, len(batch.real_BN), last=False):
            return self._forward(batch, draw).total()

    def _whole(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        here = self._state()
        return {name: self.strategy.full(value, here[name]) for name, value in tensors.items()}

    def _state(self) -> dict[str, Tensor]:
        return self.model.state_dict(keep_vars=True)

    def _next(self, split: Split) -> Batch:
        if self.place.index >= split.batches(self.place.epoch):
            self.place.epoch, self.place.index = self.place.epoch + 1, 0
        batch = split.batch(self.place.epoch, self.place.index)
        self.place.index += 1
        return batch

    def _judge(self, loss: float) -> None:
        better = loss < self.place.best
        if better and self.settings.patience:
            with self.average.swapped(self.model):
                self.best = {n: self.strategy.held(v).detach().clone() for n, v in self._state().items()}
        self.place.best = min(loss, self.place.best)
        self.place.stale = 0 if better else self.place.stale + 1

    def _take_best(self) -> None:
        """Where an early stop was asked for, what is evaluated is the model at its best validation, not at its last."""
        if self.best:
            with torch.no_grad():
                for name, value in self._state().items():
                    self.strategy.held(value).copy_(self.best[name])
            self.average.load({name: self.best[name] for name in self.average.weights})

    def _not_finite(self, step: int) -> RunFailed:
        bad = [n for n, p in self.model.named_parameters() if not bool(torch.isfinite(p).all())]
        what = f"{len(bad)} parameters are not finite, the first is {bad[0]}" if bad else "all parameters are finite"
        return RunFailed(f"step {step}: the validation loss is not finite ({what}); try a lower --train.lr")

    def _stale(self) -> bool:
        return bool(self.settings.patience) and self.place.stale >= self.settings.patience


def learning_rate(settings: Train, step: int, total: int) -> float:
    """Linear warm-up, then half a cosine down to `min_lr` of the peak (Loshchilov & Hutter 2017)."""
    warm = min(settings.warmup, total // 2)
    if step < warm:
        return settings.lr * (step + 1) / warm
    done = (step - warm) / max(1, total - warm)
    return settings.lr * (settings.min_lr + (1 - settings.min_lr) * 0.5 * (1 + math.cos(math.pi * done)))


def _groups(model: nn.Module, decay: float) -> list[dict[str, Any]]:
    """Matrices decay; vectors (biases, norms, gates) do not."""
    named = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in named if p.dim() >= 2], "weight_decay": decay},
        {"params": [p for p in named if p.dim() < 2], "weight_decay": 0.0},
    ]


def _numbers(terms: Terms, split: str) -> dict[str, float]:
    """A step's terms as flat named numbers; vectors get one number an entry."""
    # What layers ask for beside the task differs from arm to arm, so validation and early stop leave it out.
    whole = terms.total() if split == "train" else terms.task()
    numbers = {f"{split}/loss": float(whole.detach())}
    if split == "train" and terms.auxiliary:
        numbers[AUXILIARY] = float(torch.stack([value.detach().float() for value in terms.auxiliary.values()]).sum())
    named = terms.losses | terms.auxiliary
    numbers |= {f"{split}/loss/{name}": float(value.detach()) for name, value in named.items()}
    for name, value in terms.stats.items():
        flat: Tensor = value.detach().float().reshape(-1)
        if value.dim() == 0:
            numbers[f"stat/{name}"] = float(flat[0])
        else:
            numbers |= {f"stat/{name}/{i}": float(v) for i, v in enumerate(flat)}
    return numbers
