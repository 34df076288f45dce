"""One run from resolved configuration to report: what `core run` and `core resume` do."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeAlias

import attrs
import numpy as np
import torch

from core import toml
from core.config import Resolved
from core.errors import RunFailed, UserError
from core.hooks import Hooks
from core.identity import digest, run_identity
from core.kinds import Card, Evaluation, Source
from core.registry import installed
from core.report.store import save_evaluation
from core.train.cost import Cost, counted, refuse_too_large
from core.train.fitted import keep_fitted, read_fitted
from core.train.loop import Listener, Trainer
from core.train.probe import watch_gates
from core.train.progress import Progress, Silent
from core.train.provenance import environment, now
from core.train.ranks import anyone, count_ranks, joined, lost, orphaned, started
from core.train.rundir import RunDir
from core.train.seal import model_files, sealed
from core.train.settings import Run
from core.train.streams import Streams
from core.train.tracked import finals, open_track
from core.train.trained import keep_preparation

LOSS = "another process of the run ended, or is silent"


@attrs.frozen(kw_only=True)
class Opened:
    """A configuration with its data: all that is known before a weight exists."""

    resolved: Resolved
    source: Source
    card: Card
    device: torch.device
    identity: dict[str, Any]

    @property
    def run(self) -> Run:
        return self.resolved.root

    @property
    def ranks(self) -> int:
        """How many processes train it.

        Raises:
            UserError: what was asked for contradicts the strategy, or what torchrun started.
        """
        strategy = self.run.strategy
        return count_ranks(self.run.devices, self.resolved.settings["strategy"].value, strategy.many)

    def trainer(self, fitted: Mapping[str, np.ndarray] | None = None) -> Trainer:
        """What trains it, at its first step; `fitted` where the run keeps what its system fitted."""
        return Trainer(
            system=self.run.system,
            source=self.source,
            settings=self.run.train,
            strategy=self.run.strategy,
            device=self.device,
            seed=self.run.seed,
            fitted=fitted,
        )

    def place(self, out: str | None) -> Path:
        """Where the run lives: `-o`, else `runs/<system>/<hash16>-s<seed>`."""
        if out:
            return Path(out)
        system = self.resolved.settings["system"].value
        return Path("runs") / system / f"{digest(self.identity)[:16]}-s{self.run.seed}"


Report: TypeAlias = Literal["drawn", "kept", "none"]


def open_run(resolved: Resolved) -> Opened:
    """Read the data and say which run this is.

    Raises:
        UserError: the data are missing or malformed, or the device is not there.
    """
    run: Run = resolved.root
    device = run.strategy.device(run.device)
    source = run.data.open()
    card = source.describe()
    return Opened(
        resolved=resolved,
        source=source,
        card=card,
        device=device,
        identity=run_identity(resolved, card.fingerprint, device.type),
    )


def cost_of(opened: Opened) -> Cost:
    """Parameters and FLOPs of the configured model.

    Raises:
        UserError: the pieces do not fit together.
    """
    return counted(opened.resolved, opened.card)


def execute(
    opened: Opened,
    out: str | None,
    *,
    force: bool,
    quiet: bool,
    argv: list[str],
    report: Report = "drawn",
    until: int = 0,
    cost: Cost | None = None,
) -> tuple[Path, str]:
    """Train, evaluate and report; or take up where an earlier process left; or find it all done.

    Args:
        opened: what to run.
        out: the run's directory; None: the usual one.
        force: set an earlier run of this directory aside.
        quiet: no progress.
        argv: the command, for the record.
        report: whether report and figures are drawn; `kept`: what they need is there, and `core report` draws them.
        cost: of the model, where somebody counted before; counting takes a second.
        until: a step at which to leave as if interrupted, the checkpoint written; 0: go to the end.

    Returns:
        The run directory and how it stands now: `done` or `stopped`.

    Raises:
        UserError: the directory cannot be used, or the model is larger than the memory.
        RunFailed: training could not go on; the directory says so.
    """
    ranks = opened.ranks
    if ranks > 1 and not started():
        raise UserError(
            f"--devices {ranks}: only `core run` and `core resume` start several processes; leave it out here"
        )
    place = opened.place(out)
    if not opened.run.strategy.main():
        return place, _follow(opened, place, ranks, until)
    cost = cost_of(opened) if cost is None else cost
    refuse_too_large(cost, opened.device)
    record = {
        "system": opened.resolved.settings["system"].value,
        "seed": opened.run.seed,
        "data": attrs.asdict(opened.card),
        "parameters": cost.parameters,
        "flops_per_step": cost.flops,
        "started": now(),
    }
    with joined(ranks, opened.device):
        with _others_told(opened.device):
            run = RunDir.open(place, opened.identity, record, force)
        progress = Progress(quiet=quiet, log=run.path / "log.txt")
        hooks = Hooks(installed(), progress.say)
        try:
            done = run.status == "done"
            if not anyone(done, opened.device):
                try:
                    return run.path, _go(run, opened, progress, hooks, argv, report, until)
                except (KeyboardInterrupt, Exception) as error:
                    status = "stopped" if isinstance(error, KeyboardInterrupt) else "failed"
                    reason = "interrupted" if status == "stopped" else f"{type(error).__name__}: {error}"
                    reason = LOSS if ranks > 1 and lost(error) else reason
                    _settle(run, status, reason, hooks)
                    if isinstance(error, OSError):
                        raise RunFailed(
                            f"{run.path}: {error}; the run is marked failed, the same command goes on"
                        ) from error
                    raise
            progress.say(f"{run.path} is done already; --force trains it again")
            return run.path, "done"
        finally:
            progress.close()
            run.close()


@contextmanager
def _others_told(device: torch.device) -> Iterator[None]:
    """Before the block's error is raised, the other processes hear that there is nothing to train."""
    try:
        yield
    except BaseException:
        anyone(True, device)
        raise


def _follow(opened: Opened, place: Path, ranks: int, until: int) -> str:
    """Train beside the first process, which alone writes, speaks and evaluates."""
    with joined(ranks, opened.device):
        if anyone(False, opened.device):
            return "done"
        _exactly(opened.device)
        trainer = opened.trainer()
        run = RunDir.beside(place)
        try:
            trainer.take_up(run)
            quiet = Listener(step=lambda at, numbers: None, valid=lambda at, numbers: None, say=lambda text: None)
            with stop_on_signal(quiet.say) as stop:
                finished = trainer.fit(run, Silent(), quiet, _whether(stop, trainer, until))
            if finished:
                trainer.alone()
        finally:
            run.close()
    return "done" if finished else "stopped"


def _whether(stop: Callable[[], bool], trainer: Trainer, until: int) -> Callable[[], bool]:
    return lambda: stop() or orphaned() or bool(until and trainer.place.step >= until)


def _exactly(device: torch.device) -> None:
    if device.type == "cpu":
        # The same as `use_deterministic_algorithms(True)`, which would import torch's compiler, two seconds long.
        torch.set_deterministic_debug_mode("error")


def _settle(run: RunDir, status: str, reason: str, hooks: Hooks) -> None:
    """Write down how a run ended early; on a full disk even that can fail, and `running` then stands: not complete."""
    try:
        run.set(status=status, reason=reason, ended=now())
    except OSError:
        return
    finally:
        hooks.fire("core_run_end", run=run, status=status)


def _go(
    run: RunDir, opened: Opened, progress: Progress, hooks: Hooks, argv: list[str], report: Report, until: int
) -> str:
    settings = opened.run
    run.set(status="running", reason=None, ended=None, environment=environment(opened.resolved, opened.device, argv))
    run.write("config.toml", toml.dump(opened.resolved))
    run.write("parts.toml", toml.parts(opened.resolved))
    keep_preparation(run, opened.source)
    _exactly(opened.device)
    progress.say(f"run {run.path}")
    progress.say(f"data {_told(opened.card)}")
    if "split" in opened.card.facts:
        progress.say(f"split {opened.card.facts['split']}")
    progress.say(
        f"model {run.record['parameters']:,} parameters, {run.record['flops_per_step'] / 1e9:.3g} GFLOP a step"
    )
    if opened.ranks > 1:
        progress.say(f"{opened.ranks} processes share each batch")
    trainer = opened.trainer(read_fitted(run.path))
    keep_fitted(run, trainer.fitted)
    step = trainer.take_up(run)
    if step:
        progress.say(f"going on from the checkpoint of step {step}")
    hooks.fire("core_run_start", run=run)
    track = open_track(settings.tracker, run.path, step, progress.say)
    clock = _Clock(run.path / "timing.jsonl", step)

    def stepped(at: int, numbers: dict[str, float]) -> None:
        clock.add(numbers["seconds"])
        progress.step(at, numbers["train/loss"])
        hooks.fire("core_step_end", run=run, step=at, losses=numbers)

    def validated(at: int, numbers: dict[str, float]) -> None:
        progress.valid(at, numbers["valid/loss"])
        hooks.fire("core_eval_end", run=run, step=at, metrics=numbers)

    try:
        with stop_on_signal(progress.say) as stop, progress.training(step, trainer.total):
            finished = trainer.fit(
                run,
                track,
                Listener(step=stepped, valid=validated, say=progress.say),
                _whether(stop, trainer, until),
            )
        clock.write(trainer.place.step)
        if not finished:
            progress.say(
                f"stopped at step {trainer.place.step}; the same command, or `core resume {run.path}`, goes on"
            )
            _settle(run, "stopped", "interrupted", hooks)
            return "stopped"
        if opened.ranks > 1:
            trainer.alone()
        progress.say("evaluating on held-out data")
        evaluation, gates = evaluate(trainer)
        save_evaluation(run, evaluation, gates, whole=report != "none")
        track.conclude(trainer.place.step, finals(evaluation))
    finally:
        track.finish()
    if report == "drawn":
        from core.report.write import write_report  # draws, and drawing takes a second to import

        write_report(run.path, opened.run.system, report_sections(hooks, run.path))
    run.set(status="done", ended=now(), steps=trainer.place.step, files=sealed(run.path, model_files(run.path)))
    hooks.fire("core_run_end", run=run, status="done")
    return "done"


def evaluate(trainer: Trainer) -> tuple[Evaluation, dict[str, Any]]:
    """Scores on the test split with the averaged weights, and what the gates did on the validation split."""
    with watch_gates(trainer.model) as gates:
        trainer.validate()
    with trainer.evaluating():
        evaluation = trainer.system.evaluate(trainer.model, trainer.source, "test", Streams(trainer.streams.seed))
    return evaluation, gates


def report_sections(hooks: Hooks, path: Path) -> list[tuple[str, str]]:
    """The sections that third parties add to a report; what is no pair of texts is left out and told."""
    sections = []
    for brought in hooks.fire("core_report_sections", path=path):
        for section in brought if isinstance(brought, (list, tuple)) else [brought]:
            if isinstance(section, (list, tuple)) and len(section) == 2 and all(isinstance(t, str) for t in section):
                sections.append((section[0], section[1]))
            else:
                hooks.warn(f"hook core_report_sections gave {section!r}, which is no (title, text); it is left out")
    return sections


@contextmanager
def stop_on_signal(say: Callable[[str], None]) -> Iterator[Callable[[], bool]]:
    """Turn the first SIGINT or SIGTERM into a request to stop after the step; a second SIGINT interrupts at once."""
    asked = False

    def ask(number: int, frame: Any) -> None:
        nonlocal asked
        if asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked = True
        say("stopping after this step and writing a checkpoint; Ctrl-C again leaves at once")

    kept = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: asked
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)


class _Clock:
    """Seconds of steps, kept apart from metrics.jsonl, which must be equal from run to run."""

    def __init__(self, path: Path, step: int) -> None:
        self.path, self.begin, self.seconds = path, step, [0.0, 0.0]

    def add(self, seconds: float) -> None:
        self.seconds = [self.seconds[0] + seconds, self.seconds[1] + 1]

    def write(self, step: int) -> None:
        total, steps = self.seconds
        if steps:
            with self.path.open("a") as handle:
                handle.write(f'{{"from": {self.begin}, "to": {step}, "seconds_per_step": {total / steps:.6g}}}\n')


def _told(card: Card) -> str:
    splits = ", ".join(f"{n:,} {name}" for name, n in card.splits.items())
    return f"{card.name}: {splits}; {', '.join(f'{v:,} {k}' for k, v in card.sizes.items())}"
