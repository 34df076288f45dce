"""What a trial's process does: the run that its identity names, and the numbers that the study needs of it."""

from __future__ import annotations

import contextlib
import json
import math
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.config import Layer, Resolved
from core.errors import UserError
from core.identity import difference, digest
from core.layers import file_layer
from core.names import Text
from core.score import MODEL
from core.study.child import work_on
from core.study.folder import Stored, TrialOf, arm_file, command_of, read
from core.study.gather import primary
from core.study.table import Table

if TYPE_CHECKING:  # a runner that starts trials needs no torch
    from core.train.cost import Cost
    from core.train.session import Opened

VALID = "valid/loss"
INTERIM = "interim"
"""folder of a study whose trials are those of the study up to the rung at which arms may be given up"""
AUDIT = "audit"
"""folder of a study whose trials repeat finished ones from nothing"""

Resolve = Callable[[list[Layer]], Resolved]


def work(root: Path, trial: str, resolve: Resolve, *, within: str = "") -> int:
    """Claim a trial of a study and run it; `core.study.child.work_on`'s exit status.

    Args:
        root: the study.
        trial: the id.
        resolve: layers -> a configuration.
        within: folder of the study whose trial it is, `INTERIM` or `AUDIT`; empty: the study's own.

    Raises:
        UserError: the study or its disk.
    """
    stored = read(root)
    table = Table(root / within)
    keep = bool(stored.value("run.keep"))

    def run(identity: Mapping[str, Any], folder: Path) -> dict[str, Any]:
        of = identity["trial"] if within else digest(identity)
        mine = next(t for t in stored.trials if t.id == of[:16])
        # A repetition takes up nothing; a rung and the rest of its trial are one run.
        place = (folder if within == AUDIT else root / "trials" / mine.id[:2] / mine.id) / "run"
        place.parent.mkdir(parents=True, exist_ok=True)
        return _run(stored, mine, of, place, resolve, keep, identity["until"] if within == INTERIM else 0)

    return work_on(table, trial, run)


def interim_identity(trial: str, step: int) -> dict[str, Any]:
    """What the trial of `root/interim` is that belongs to a trial of the study; `trial` is the full digest."""
    return {"trial": trial, "until": step}


def audit_identity(trial: str, number: int) -> dict[str, Any]:
    """What the trial of `root/audit` is that repeats a trial of the study for the `number`th time."""
    return {"trial": trial, "repetition": number}


def layers_of(stored: Stored, trial: TrialOf) -> list[Layer]:
    """The configuration of a trial, lowest layer first."""
    arm = stored.arm(trial.system, trial.arm)
    over: dict[str, tuple[Any, str]] = {"seed": (trial.seed, "study")}
    if trial.block:
        over[stored.first["block_key"]] = (Text(trial.block), "study")
        over |= {key: (value, "matched") for key, value in arm["matched"].items()}
    return [file_layer(str(stored.root / "arms" / arm_file(trial.system, trial.arm))), Layer("study", over)]


def _run(
    stored: Stored, trial: TrialOf, full: str, place: Path, resolve: Resolve, keep: bool, until: int
) -> dict[str, Any]:
    from core.train.cost import Cost
    from core.train.session import execute, open_run

    opened = open_run(resolve(layers_of(stored, trial)))
    if digest(opened.identity) != full:
        raise UserError(_changed(opened.identity, stored, full))
    argv = ["core", "run", *command_of(stored, trial).split()[2:]]
    counted = stored.arm(trial.system, trial.arm)["cost"]
    cost = Cost(parameters=counted["parameters"], active=counted["active"], flops=counted["flops"], by_part={})
    if until:
        return _interim(opened, place, argv, until, cost, lambda known: primary(stored, trial.system, known))
    path, status = execute(opened, str(place), force=False, quiet=False, argv=argv, report="none", cost=cost)
    if status != "done":
        raise KeyboardInterrupt
    outcome = {"metrics": _metrics(path), "measured": _measured(path)}
    if not keep:
        shutil.rmtree(path / "checkpoints", ignore_errors=True)
    return outcome


def _interim(
    opened: Opened, place: Path, argv: list[str], until: int, cost: Cost, metric: Callable[[list[str]], str]
) -> dict[str, Any]:
    """Train to the rung and score the validation split there; the checkpoint stays for the rest of the trial."""
    from core.train.rundir import RunDir
    from core.train.session import execute
    from core.train.streams import Streams

    _, status = execute(opened, str(place), force=False, quiet=False, argv=argv, report="none", until=until, cost=cost)
    trainer = opened.trainer()
    run = RunDir.open(place, opened.identity, {})
    try:
        trainer.take_up(run)
    finally:
        run.close()
    if status != "done" and trainer.place.step < until:  # a training that ended earlier is judged where it ended
        raise KeyboardInterrupt
    with trainer.evaluating():
        evaluation = trainer.system.evaluate(trainer.model, opened.source, "valid", Streams(opened.run.seed))
    own = {f"{score.task}/{score.metric}": score for score in evaluation.scores if score.arm == MODEL}
    key = metric([*own])
    if key not in own or not math.isfinite(own[key].value):
        raise UserError(f"the validation split gives no {key} at step {until}, so no arm can be stopped by it")
    return {"metrics": {"value": own[key].value, "higher": own[key].higher, "step": until}, "measured": {}}


def _metrics(run: Path) -> dict[str, Any]:
    """Everything that is the same to the last digit whenever the trial is run."""
    scores = json.loads((run / "evaluation.json").read_text("utf-8"))["scores"]
    for score in scores:
        score["units"] = {u: v for u, v in score["units"].items() if math.isfinite(v)}
    curve = []
    for line in (run / "metrics.jsonl").read_text("utf-8").splitlines():
        record = json.loads(line)
        if VALID in record and math.isfinite(record[VALID]):
            curve.append([record["step"], record[VALID]])
    return {"scores": scores, "curve": curve}


def _measured(run: Path) -> dict[str, Any]:
    """Seconds, sizes and versions, which may differ from one execution to the next."""
    record = json.loads((run / "run.json").read_text("utf-8"))
    environment = record["environment"]
    measured: dict[str, Any] = {
        "code": environment.get("commit") or "installed",
        "environment": (
            f"python {environment['python']}, torch {environment['torch']}, numpy {environment['numpy']}, "
            f"{environment['device']}, {environment['threads']} threads"
        ),
        "distributions": environment["distributions"],
    }
    times = []
    with contextlib.suppress(OSError):
        for line in (run / "timing.jsonl").read_text("utf-8").splitlines():
            timing = json.loads(line)
            times.append((timing["to"] - timing["from"], timing["seconds_per_step"]))
    steps = sum(count for count, _ in times)
    if steps:
        measured["seconds_per_step"] = sum(count * seconds for count, seconds in times) / steps
    return measured


def _changed(identity: Mapping[str, Any], stored: Stored, full: str) -> str:
    """Why a configuration is no longer the one that was planned."""
    planned = Table(stored.root).config(full[:16])[1]
    names = {"data": "E-FINGERPRINT: the data are others than", "device": "E-DEVICE: the device is another than"}
    what = next(
        (text for key, text in names.items() if planned.get(key) != identity[key]),
        "E-CODE: another version of a piece is installed than",
    )
    return (
        f"{what} when the study was planned: {difference(planned, identity)} (there the plan, here now). "
        "Finished trials are of the old; restore it, or plan a new study with -o"
    )
