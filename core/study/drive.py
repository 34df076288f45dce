"""Running a planned study to its end: the rung at which arms may be given up, then everything else, then the report."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from core.config import resolve_part
from core.identity import digest
from core.kinds import Executor
from core.registry import installed
from core.study.folder import Stored, read
from core.study.orphans import Limits
from core.study.runner import Runner
from core.study.spans import rung_of, seconds_of
from core.study.stats.futility import futile
from core.study.steps import stop
from core.study.store import Store
from core.study.table import Table
from core.study.task import Event
from core.study.trial import RESOLVED, State
from core.study.work import AUDIT, INTERIM, audit_identity, interim_identity

Tell = Callable[[Event], None]


@attrs.frozen(kw_only=True)
class Ways:
    """How trials are run; what a flag says beats what the plan says."""

    executor: Executor
    limits: Limits
    store: Store | None
    rung: int
    """step at which arms may be stopped; 0: never"""
    attempts: int


def ways(stored: Stored, over: Mapping[str, Any], environ: Mapping[str, str], tell: Callable[[str], None]) -> Ways:
    """How a study's trials are run.

    Args:
        stored: the study.
        over: settings of `run.` that beat the study's own.
        environ: `CORE_STORE` names a store.
        tell: called with what the store has to say.

    Raises:
        UserError: a time or a rung that is none, or an executor that cannot be made.
    """

    def said(key: str) -> Any:
        return over.get(f"run.{key}", stored.value(f"run.{key}"))

    store = said("store") or environ.get("CORE_STORE", "")
    return Ways(
        executor=executor_of(said("executor"), said("slots"), said("threads"), said("gpus")),
        limits=Limits(timeout=seconds_of(said("timeout"))),
        store=Store(Path(store), tell) if store else None,
        rung=rung_of(said("stop")),
        attempts=said("attempts"),
    )


def executor_of(name: str, slots: int, threads: int, gpus: Sequence[int]) -> Executor:
    """An executor by name or call, with what shorter flags say of it.

    Raises:
        UserError: there is none of this name, or it takes no such thing.
    """
    found = installed().find("executor", name, "--executor")
    shorter = {"slots": slots, "threads": threads, "gpus": [*gpus]}
    said = {key: value for key, value in shorter.items() if value}
    return resolve_part("executor", found.row.qualified, {**found.values, **said})


def drive(root: Path, how: Ways, tell: Tell) -> tuple[int, str]:
    """Run a study's trials until all are resolved.

    Returns:
        The runner's exit status, and why nothing could be started where it is 5.

    Raises:
        UserError: the directory cannot be used.
    """
    if how.rung:
        code, reason = _interim(root, how, tell)
        if code in (130, 143, 5):
            return code, reason
    table = Table(root, attempts=how.attempts)
    runner = Runner(table, how.executor, _command(root), limits=how.limits, store=how.store, tell=tell)
    return runner.run(), runner.reason


def audit(root: Path, how: Ways, chosen: Sequence[str], tell: Tell) -> tuple[int, str, dict[str, bool | None]]:
    """Repeat finished trials from nothing, by no store, and compare what came of them to the last digit.

    Args:
        root: the study.
        how: as in `drive`.
        chosen: ids of trials that are done.
        tell: as in `drive`.

    Returns:
        The runner's exit status, why nothing could be started where it is 5, and for each trial whether its
        repetition gave the same; None where that one gave nothing.

    Raises:
        UserError: the directory cannot be used.
    """
    table = Table(root, attempts=how.attempts)
    again = Table.create(root / AUDIT, attempts=how.attempts)
    ended = {name for name in again.ids() if again.look(name).state in RESOLVED}
    names = {}
    for trial in chosen:
        identities = (audit_identity(table.config(trial)[0], number) for number in itertools.count(1))
        fresh = next(identity for identity in identities if digest(identity)[:16] not in ended)
        names[trial] = again.add([fresh])[0]
    runner = Runner(again, how.executor, _command(root, AUDIT), limits=how.limits, tell=tell)
    code = runner.run()
    same: dict[str, bool | None] = {}
    for trial, name in names.items():
        first, second = table.result(trial), again.result(name)
        same[trial] = None if first is None or second is None else first.metrics == second.metrics
    return code, runner.reason, same


def _command(root: Path, within: str = "") -> Callable[[str], list[str]]:
    # -P: a folder called `plugins` in the current directory must not be found before ours.
    head = [sys.executable, "-P", "-m", "core", "ablate", "trial", str(root.absolute())]
    tail = [within] if within else []
    return lambda trial: [*head, trial, *tail]


def _interim(root: Path, how: Ways, tell: Tell) -> tuple[int, str]:
    """Bring every trial to the rung, then stop the arms that are clearly worse there, all their seeds alike."""
    stored = read(root)
    table = Table(root, attempts=how.attempts)
    rungs = Table.create(root / INTERIM, attempts=how.attempts)
    identities = {trial.id: interim_identity(table.config(trial.id)[0], how.rung) for trial in stored.trials}
    wanted = [name for name in identities if table.look(name).state not in (State.DONE, State.STOPPED)]
    if not wanted:
        return 0, ""
    rungs.add([identities[name] for name in wanted])
    # A trial that is done by now was at the rung before: its result there counts for whoever judges after it.
    of = {name: digest(identity)[:16] for name, identity in identities.items()}
    runner = Runner(rungs, how.executor, _command(root, INTERIM), limits=how.limits, tell=tell)
    code = runner.run()
    if code in (130, 143, 5):
        return code, runner.reason
    for arm, why in verdicts_at_rung(stored, rungs, of).items():
        for trial in stored.trials:
            if (trial.system, trial.arm) == arm:
                stop(table, trial.id, {"message": why})
    return 0, ""


def verdicts_at_rung(stored: Stored, rungs: Table, of: Mapping[str, str]) -> dict[tuple[str, str], str]:
    """The arms that stop, each with the sentence that says why. A function of the rung's results alone, so that every
    runner comes to the same."""
    values: dict[tuple[str, str], dict[tuple[str, int], float]] = {}
    facts: dict[str, tuple[bool, int]] = {}
    """system -> whether larger is better, and the step that was scored"""
    for trial in stored.trials:
        result = rungs.result(of[trial.id]) if trial.id in of else None
        if result is not None:
            facts[trial.system] = bool(result.metrics["higher"]), int(result.metrics["step"])
            values.setdefault((trial.system, trial.arm), {})[trial.block, trial.seed] = result.metrics["value"]
    found = {}
    for system, (higher, step) in facts.items():
        own = [arm["label"] for arm in stored.arms if arm["system"] == system and arm["state"] == "planned"]
        base = values.get((system, own[0]), {})
        for label in own[1:]:
            arm = values.get((system, label), {})
            pairs = sorted({*base, *arm})
            judged = futile([base.get(p) for p in pairs], [arm.get(p) for p in pairs], higher)
            if judged.stop:
                found[system, label] = f"step {step}: {judged.why}"
    return found
