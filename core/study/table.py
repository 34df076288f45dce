"""The trial table: a directory that any number of processes and machines share without a server.

    DIR/LAYOUT                        revision of this layout, and the table's own number
    DIR/planned/                      which trials there are, `core.study.planned`
    DIR/trials/ab/ab12...16/          one folder a trial once it began; `core.study.trial` lists its files
    DIR/trials/ab/ab12...16/attempt.K/    what attempt K wrote

Each step is one file that appears whole by `link()` and is never changed (`core.study.sealed`): whoever is killed
between two system calls leaves the table as it was before or after the step. Two may want the same step; one gets it.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import attrs

from core.files import write_atomic
from core.identity import digest
from core.study.owner import Watch
from core.study.planned import Planned
from core.study.sealed import Damaged, TableError, load, publish, seal, told
from core.study.trial import Files, Trial, derive, sort_names

LAYOUT = 1


@attrs.frozen(kw_only=True)
class Result:
    """What a trial came to."""

    metrics: Mapping[str, Any]
    """what a deterministic task must repeat to the last digit"""
    measured: Mapping[str, Any]
    """seconds, memory, host: may differ from one attempt to the next"""
    attempt: int
    cached: bool


class Table:
    """The trials of one study.

    Args:
        root: the study's directory, which `Table.create` has made.
        attempts: how often a trial is tried, unless `retry` grants more.
        watch: judges whether the owner of a claim lives.

    Raises:
        TableError: E-LAYOUT: there is no study, or one that a newer version wrote.
    """

    def __init__(self, root: Path, *, attempts: int = 2, watch: Watch | None = None) -> None:
        self.root = root
        self.attempts = attempts
        self.watch = watch or Watch()
        try:
            layout = load(root / "LAYOUT")
        except (FileNotFoundError, NotADirectoryError):
            raise TableError(f"E-LAYOUT: {root} holds no study. Plan one there, or give its directory") from None
        except Damaged as error:
            raise TableError(f"E-LAYOUT: {error}. Restore it from a backup, or plan anew with -o") from None
        if layout["layout"] > LAYOUT:
            raise TableError(
                f"E-LAYOUT: {root} was written by a newer cellcore (layout {layout['layout']}, this one reads up to "
                f"{LAYOUT}). Update cellcore; nothing was changed"
            )
        self._planned = Planned(root)
        self._trials = str(root / "trials")
        self.study: str = layout["study"]

    @classmethod
    def create(cls, root: Path, *, attempts: int = 2, watch: Watch | None = None) -> Table:
        """The table at `root`, made if it is not there; of several makers one wins and all get the same."""
        if not (root / "LAYOUT").exists():
            with told(root):
                root.mkdir(parents=True, exist_ok=True)
            publish(root / "LAYOUT", seal({"layout": LAYOUT, "study": secrets.token_hex(16)}))
        return cls(root, attempts=attempts, watch=watch)

    def add(self, identities: Iterable[Mapping[str, Any]]) -> list[str]:
        """Plan trials; their ids, in order. What is there already stays as it is.

        Raises:
            ValueError: an identity without canonical form.
            TableError: the disk, or E-COLLISION: two trials whose ids agree.
        """
        return [full[:16] for full in self._planned.add(identities)]

    def ids(self) -> list[str]:
        """All trials, sorted."""
        return self._planned.ids()

    def folder(self, trial: str) -> Path:
        """Where a trial's files are."""
        return self.root / "trials" / trial[:2] / trial

    def claim_path(self, trial: str, attempt: int) -> Path:
        """The claim of an attempt."""
        return self.folder(trial) / f"claim.{attempt}"

    def config(self, trial: str) -> tuple[str, dict[str, Any]]:
        """Full digest and identity, from the trial's folder, or from the plan before the trial has one.

        Raises:
            TableError: E-TRIAL: no such trial.
        """
        try:
            body = load(self.folder(trial) / "config.json")
        except (FileNotFoundError, Damaged):
            return self._planned.identity(trial)
        if not (body["id"].startswith(trial) and body["id"] == digest(body["identity"])):
            return self._planned.identity(trial)
        return body["id"], body["identity"]

    def open(self, trial: str) -> None:
        """Give a trial its folder with `config.json`, where it has none or a damaged one.

        Raises:
            TableError: no such trial, or the disk.
        """
        path = self.folder(trial) / "config.json"
        with contextlib.suppress(FileNotFoundError, Damaged):
            load(path)
            return
        full, identity = self._planned.identity(trial)
        with told(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            # Whoever opens this trial writes the same bytes, so the last may win over one that was damaged.
            write_atomic(path, seal({"id": full, "identity": identity}))

    def look(self, trial: str) -> Trial:
        """A trial as its files say now. Reads only."""
        files = self._files(trial)
        done = cached = damaged = False
        if files.result:
            try:
                body = load(self.folder(trial) / "result.json")
                done, cached = body["id"].startswith(trial), body["study"] != self.study
                damaged = not done
            except Damaged:
                damaged = True
            except FileNotFoundError:  # moved aside since the names were read
                pass
        limit = self._limit(trial, files)
        return Trial(
            id=trial,
            state=derive(files, done, limit),
            attempt=files.attempt,
            counted=files.counted,
            limit=limit,
            cached=cached,
            conflicts=files.conflicts,
            damaged=damaged,
        )

    def result(self, trial: str) -> Result | None:
        """What a trial came to, checked against its bytes and its full digest; None where there is nothing to trust.

        Raises:
            TableError: its config is damaged.
        """
        try:
            body = load(self.folder(trial) / "result.json")
        except (FileNotFoundError, Damaged):
            return None
        if body["id"] != self.config(trial)[0]:
            return None
        return Result(
            metrics=body["metrics"],
            measured=body["measured"],
            attempt=body["attempt"],
            cached=body["study"] != self.study,
        )

    def alive(self, trial: Trial) -> bool:
        """Whether the owner of a running trial may still be at work."""
        return self.watch.alive(self.claim_path(trial.id, trial.attempt))

    def _files(self, trial: str) -> Files:
        folder = f"{self._trials}/{trial[:2]}/{trial}"  # a Path costs as much as the call that follows
        try:
            return sort_names(os.listdir(folder))  # noqa: PTH208
        except FileNotFoundError:
            if trial not in self._planned:
                self._planned.identity(trial)
            return Files()
        except OSError:
            with told(self.folder(trial)):
                raise

    def _limit(self, trial: str, files: Files) -> int:
        """Attempts in all: a result that a disk damaged is no fault of the trial's, and `retry` grants more."""
        limit = self.attempts + min(files.corrupt, self.attempts)
        for number in files.retries:
            with contextlib.suppress(Damaged, FileNotFoundError):
                limit = max(limit, load(self.folder(trial) / f"retry.{number}.json")["limit"])
        return limit
