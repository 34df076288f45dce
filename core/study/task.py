"""A trial's process as its runner sees it, from its start to the word it left in the table."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from core.study.child import ATTEMPTS, OUTPUT, TAKEN, TOKEN
from core.study.job import Job, Running
from core.study.output import cut, end_of
from core.study.sealed import Damaged, load, told
from core.study.steps import End, end
from core.study.table import Table
from core.study.trial import State

if TYPE_CHECKING:  # the interfaces of core.kinds import torch
    from core.kinds.executor import Executor

LOST = -signal.SIGKILL
"""the status of a process of which only its end is known"""
_LOOK = 10.0
"""seconds between two looks at the owner of a trial of our own"""
_WORDS = 2000
"""characters of a dead child's output that its record keeps"""


@attrs.frozen(kw_only=True)
class Event:
    """Something that a runner saw; a live view is drawn from these."""

    kind: str
    """started, done, cached, failed, crashed, timeout, interrupted, conflict; taken: another runner was faster;
    unclaimed: the process ended before it claimed its trial; waiting: the runner was asked to end, and trials run"""
    trial: str
    attempt: int = 0
    code: int | None = None
    """exit status of the process; negative: the signal that ended it"""
    text: str = ""


@attrs.define(kw_only=True, eq=False)
class Task:
    """One process that a runner started."""

    trial: str
    token: str
    output: Path
    before: int
    """number of the trial's last attempt when the process was started"""
    running: Running
    began: float | None = None
    asked: float | None = None
    """when it was asked to end"""
    why: End = "crashed"
    """what it means if it ends without a word"""
    _handle: int | None = None
    _looked: float | None = None
    _dead: bool = False

    @classmethod
    def start(
        cls, table: Table, executor: Executor, trial: str, argv: tuple[str, ...], *, token: str, place: int
    ) -> Task:
        """Start a trial's process in a place of the executor.

        Raises:
            UserError: the executor or the disk.
        """
        folder = table.root.absolute() / "runners"
        with told(folder):
            folder.mkdir(exist_ok=True)
        table.open(trial)
        before = table.look(trial).attempt
        output = folder / f"{token}.txt"
        job = Job(name=trial, argv=argv, env={TOKEN: token, OUTPUT: str(output), ATTEMPTS: str(table.attempts)})
        return cls(trial=trial, token=token, output=output, before=before, running=executor.start(job, output, place))

    def watch(self, table: Table, now: float, timeout: float | None, grace: float) -> int | None:
        """Note when it begins, keep its output within bounds, end it when its time is over; its exit status if it has.

        Raises:
            TableError: the disk.
        """
        code = self.running.poll()
        if code is not None:
            return code
        if self._handle is None and self._find_output(table):
            self.began = now
        if self._handle is not None:
            cut(self._handle)
        if self.asked is None:
            if timeout is not None and self.began is not None and now - self.began > timeout:
                self.stop(now, "timeout")
        elif now - self.asked > grace:
            self.running.kill()
        if self.running.sure or not self._lost(table, now):
            return None
        code = self.running.poll()  # it may have ended between the first look at it and the last
        return LOST if code is None else code

    def _lost(self, table: Table, now: float) -> bool:
        """Whether its owner is dead although the engine says nothing: Slurm without accounting forgets the cancelled.

        Two looks must agree, so that an engine which does say something, a moment later, is heard first.
        """
        if self._looked is not None and now - self._looked < _LOOK:
            return False
        self._looked = now
        attempt = self._attempt(table)
        dead = attempt is not None and not table.watch.alive(table.claim_path(self.trial, attempt))
        lost, self._dead = dead and self._dead, dead
        if lost:
            self.running.kill()
        return lost

    def stop(self, now: float, why: End) -> None:
        """Ask it to end; asked before, it keeps the first reason."""
        if self.asked is None:
            self.asked, self.why = now, why
            self.running.terminate()

    def settle(self, table: Table, code: int) -> Event:
        """What came of it. Where it left no word of its own, say in the table how it ended.

        Raises:
            TableError: the disk.
        """
        text = end_of(self.output, _WORDS)
        attempt = self._attempt(table)
        if attempt is None:
            self._forget()
            return self._event("taken" if code == TAKEN else "unclaimed", code=code, text=text)
        folder = table.folder(self.trial)
        text = end_of(folder / f"attempt.{attempt}" / "output.txt", _WORDS)
        self._forget()
        if (folder / f"conflict.{attempt}.json").exists():
            return self._event("conflict", attempt=attempt, code=code, text=text)
        if table.look(self.trial).state is State.DONE:
            return self._event("done", attempt=attempt, code=code)
        for how in ("failed", "interrupted"):
            with contextlib.suppress(FileNotFoundError, Damaged):
                facts = load(folder / f"{how}.{attempt}.json")
                words = [facts[key] for key in ("type", "message") if facts.get(key)]
                return self._event(how, attempt=attempt, code=code, text=": ".join(words))
        if table.watch.lives_here(table.claim_path(self.trial, attempt)):
            # What was started has ended, but not the trial: its command started another process. Whoever finds that
            # one dead will say so.
            return self._event("left", attempt=attempt, code=code)
        message = _how_it_ended(code) if self.why == "crashed" else f"{self.why}; {_how_it_ended(code)}"
        end(table, self.trial, attempt, self.why, {"message": message, "code": code, "output": text})
        return self._event(self.why, attempt=attempt, code=code, text=message)

    def _event(self, kind: str, *, attempt: int = 0, code: int, text: str = "") -> Event:
        return Event(kind=kind, trial=self.trial, attempt=attempt, code=code, text=text)

    def _attempt(self, table: Table) -> int | None:
        """The attempt that our process claimed."""
        for attempt in range(table.look(self.trial).attempt, self.before, -1):
            with contextlib.suppress(FileNotFoundError, Damaged):
                if load(table.claim_path(self.trial, attempt))["token"] == self.token:
                    return attempt
        return None

    def _find_output(self, table: Table) -> bool:
        """Open what it prints to, which it moves to its attempt's folder; the file is there once the job has begun."""
        with contextlib.suppress(FileNotFoundError):
            self._handle = os.open(self.output, os.O_RDWR | os.O_APPEND)
            return True
        attempt = self._attempt(table)
        if attempt is not None:
            with contextlib.suppress(FileNotFoundError):
                self._handle = os.open(
                    table.folder(self.trial) / f"attempt.{attempt}" / "output.txt", os.O_RDWR | os.O_APPEND
                )
                return True
        return False

    def _forget(self) -> None:
        if self._handle is not None:
            cut(self._handle)
            os.close(self._handle)
            self._handle = None
        with contextlib.suppress(OSError):
            self.output.unlink()


def _how_it_ended(code: int) -> str:
    if code < 0:
        try:
            return f"ended by {signal.Signals(-code).name}"
        except ValueError:
            return f"ended by signal {-code}"
    return f"ended with status {code} and without a result"
