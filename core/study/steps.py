"""The steps of a trial, each one file that appears by `link()`: claimed, ended, finished, stopped, granted more."""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import attrs

from core.files import sync_folder
from core.identity import canonical_json
from core.study.owner import this_process
from core.study.sealed import Damaged, load, publish, seal, told
from core.study.table import Table
from core.study.trial import STARTABLE, State, Trial

End = Literal["failed", "crashed", "timeout", "interrupted"]


class Taken(Exception):
    """A trial that is not to be started: running, done, stopped or out of attempts."""


class Conflict(Exception):
    """Two attempts of one trial came to different numbers; the text begins with E-CONFLICT."""


@attrs.frozen(kw_only=True)
class Claim:
    """A trial that is ours to run."""

    trial: str
    attempt: int
    path: Path


def bury(table: Table, trial: str, how: End = "crashed") -> Trial:
    """As `Table.look`; where the owner of a running attempt is dead and left no word, its end is published."""
    seen = table.look(trial)
    if seen.state is not State.RUNNING or table.alive(seen):
        return seen
    # What the owner left is final only now: between the look and its death it may have published.
    again = table.look(trial)
    if again.state is not State.RUNNING or again.attempt != seen.attempt:
        return again
    silent = table.watch.silent(table.claim_path(trial, seen.attempt))
    why = f"its owner on another machine has been silent for {silent:.0f} s" if silent else "its owner is gone"
    end(table, trial, seen.attempt, how, {"message": why})
    return table.look(trial)


def claim(table: Table, trial: str, token: str = "") -> Claim:
    """Take a trial for this process; `token` lets whoever started the process know its claim again.

    Raises:
        Taken: it runs, is done, stopped or out of attempts.
        TableError: the disk.
    """
    table.open(trial)
    seen = bury(table, trial)
    if seen.state not in STARTABLE:
        raise Taken(f"trial {trial} is {seen.state}")
    attempt = seen.attempt + 1
    path = table.claim_path(trial, attempt)
    owner = attrs.asdict(this_process())
    if not publish(path, seal({"trial": trial, "token": token, "owner": owner, "time": time.time()})):
        raise Taken(f"trial {trial} is running")
    # Between the look and the claim another may have come to a result, or the arm may have been stopped.
    again = table.look(trial)
    if again.state in (State.DONE, State.STOPPED):
        with told(path):
            path.unlink()
        raise Taken(f"trial {trial} is {again.state}")
    if again.damaged:
        _move_aside(table, trial)
    return Claim(trial=trial, attempt=attempt, path=path)


def workdir(table: Table, mine: Claim) -> Path:
    """The attempt's own folder, made."""
    path = table.folder(mine.trial) / f"attempt.{mine.attempt}"
    with told(path):
        path.mkdir(exist_ok=True)
    return path


def finish(table: Table, mine: Claim, metrics: Mapping[str, Any], measured: Mapping[str, Any]) -> None:
    """Publish what a trial came to. The first result stands; one that repeats it is thrown away.

    Raises:
        ValueError: a number that is not finite, or a value without canonical form.
        Conflict: another attempt came to other metrics; `conflict.K.json` keeps ours.
        TableError: the disk.
    """
    full, _ = table.config(mine.trial)
    path = table.folder(mine.trial) / "result.json"
    ours = {"id": full, "study": table.study, "attempt": mine.attempt, "metrics": metrics, "measured": measured}
    data = seal(ours)
    while not publish(path, data):
        try:
            there = load(path)
        except Damaged:
            _move_aside(table, mine.trial)
            continue
        except FileNotFoundError:
            continue
        if canonical_json(there["metrics"]) == canonical_json(metrics):
            return
        publish(path.with_name(f"conflict.{mine.attempt}.json"), data)
        raise Conflict(
            f"E-CONFLICT: trial {mine.trial} produced two different results "
            f"(attempt {there['attempt']}: {_differing(there['metrics'], metrics)}, "
            f"attempt {mine.attempt}: {_differing(metrics, there['metrics'])}). "
            f"A trial must repeat its metrics to the last digit; see {path.with_name(f'conflict.{mine.attempt}.json')}"
        )


def end(table: Table, trial: str, attempt: int, how: End, facts: Mapping[str, Any]) -> bool:
    """Say how an attempt ended without a result; False where somebody has said it in the same way before."""
    return publish(table.folder(trial) / f"{how}.{attempt}.json", seal({"trial": trial, "attempt": attempt, **facts}))


def stop(table: Table, trial: str, facts: Mapping[str, Any]) -> Trial:
    """Give a trial up unless it is done; whoever runs it may still finish, and its result then counts."""
    table.open(trial)
    if table.look(trial).state is not State.DONE:
        publish(table.folder(trial) / "stopped.json", seal({"trial": trial, **facts}))
    return table.look(trial)


def retry(table: Table, trial: str, more: int = 1) -> Trial:
    """Grant `more` attempts from now on, whatever was spent; asking twice before the next attempt grants once."""
    table.open(trial)
    seen = table.look(trial)
    path = table.folder(trial) / f"retry.{seen.attempt}.json"
    publish(path, seal({"trial": trial, "limit": seen.counted + more}))
    return table.look(trial)


def adopt(table: Table, trial: str, source: Path) -> bool:
    """Take a result that another study made, by hard link where the file system allows, else by copy.

    False where the source is damaged or another trial's, or where the trial has a result by now.
    """
    try:
        with told(source):
            data = source.read_bytes()
            body = load(source)
    except (Damaged, FileNotFoundError):
        return False
    if body["id"] != table.config(trial)[0]:
        return False
    table.open(trial)
    path = table.folder(trial) / "result.json"
    try:
        os.link(source, path)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOSYS, errno.ENOTSUP, errno.EACCES):
            return publish(path, data)
        with told(path):
            raise
    with told(path):
        sync_folder(path.parent)
    return True


def _move_aside(table: Table, trial: str) -> None:
    """Rename a damaged result to `result.corrupt.K`; one that turns out whole is put back."""
    folder = table.folder(trial)
    path = folder / "result.json"
    number = 1
    while (folder / f"result.corrupt.{number}").exists():
        number += 1
    aside = folder / f"result.corrupt.{number}"
    with told(path), contextlib.suppress(FileNotFoundError):
        path.rename(aside)
        with contextlib.suppress(Damaged, FileNotFoundError):
            load(aside)
            # Somebody was faster: the damaged one is gone already, and this is its successor.
            with contextlib.suppress(FileExistsError):
                os.link(aside, path)
            aside.unlink()


def _differing(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> str:
    """The first metric that differs, by name and value."""
    for name in sorted({*ours, *theirs}):
        if name not in ours or name not in theirs or canonical_json(ours[name]) != canonical_json(theirs[name]):
            return f"{name} {ours.get(name, 'missing')!r}" if name in ours else f"no {name}"
    raise AssertionError("equal metrics are no conflict")
