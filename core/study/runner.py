"""A runner: starts the trials of a table until all are resolved. Any number may share a table, come and go.

A runner decides nothing that the table does not know: each trial's process claims for itself, so a runner that is
killed leaves its children at work, and the next one waits for them.
"""

from __future__ import annotations

import random
import secrets
import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from core.study.orphans import Limits, Orphans, new_token
from core.study.scan import Scanner
from core.study.signals import noted
from core.study.store import Store
from core.study.table import Table
from core.study.task import Event, Task
from core.study.trial import RESOLVED, STARTABLE, State, Trial

if TYPE_CHECKING:  # the interfaces of core.kinds import torch
    from core.kinds.executor import Executor

_SHORT, _LONG = 0.002, 0.1
DONE, CONFLICT, INCOMPLETE, NOTHING_STARTED, INTERRUPTED, TERMINATED = 0, 1, 3, 5, 130, 143


class Runner:
    """Runs a table's trials.

    Args:
        table: the trials.
        executor: where their processes run.
        command: the command line of a trial's process, which calls `core.study.child.work_on`.
        limits: time limits.
        store: results of other studies.
        tell: called with each `Event`.
        order: seed of the order in which this runner takes trials; results do not depend on it.
        clock, sleep: a steady clock in seconds, and how to wait.
    """

    def __init__(
        self,
        table: Table,
        executor: Executor,
        command: Callable[[str], Sequence[str]],
        *,
        limits: Limits | None = None,
        store: Store | None = None,
        tell: Callable[[Event], None] = lambda event: None,
        order: int | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.table = table
        self.executor = executor
        self.command = command
        self.limits = limits or Limits()
        self.store = store
        self.tell = tell
        self.reason = ""
        """why nothing could be started, where the exit status is 5"""
        self._order = random.Random(secrets.randbits(64) if order is None else order)
        self._clock = clock
        self._sleep = sleep
        self._scanner = Scanner(table)
        self._tasks: dict[int, Task] = {}
        self._seen: dict[str, Trial] = {}
        self._queue: list[str] = []
        self._next_scan = clock()
        self._unclaimed: Counter[str] = Counter()
        self._last_words = ""
        self._asked_store: set[str] = set()
        self._orphans = Orphans(table, self.limits, clock)
        self._signals: list[int] = []
        self._waiting = False

    def run(self) -> int:
        """Start and await trials until all are resolved or nothing more can be started.

        Returns:
            Exit status: 0 all done or stopped; 1 two results of a trial differ; 3 some trials are out of attempts; 5
            nothing could be started, `reason` says why; 130, 143 interrupted or terminated, to be continued by the
            same command.

        Raises:
            TableError: the study's directory cannot be read or written. Children go on by themselves.
            UserError: the executor cannot be used here.
        """
        pause = _SHORT
        with noted(self._signals):
            while True:
                busy = self._collect()
                code: int | None = None
                if self._signals:
                    code = self._wind_down()
                else:
                    busy = self._rescan() or busy
                    busy = self._fill() or busy
                    if not self._tasks:
                        code = self._verdict()
                if code is not None:
                    return code
                pause = _SHORT if busy else min(2 * pause, _LONG)
                self._sleep(pause)

    def _collect(self) -> bool:
        """Watch our children and settle those that ended; True where one has."""
        ended = False
        for place, task in list(self._tasks.items()):
            code = task.watch(self.table, self._clock(), self.limits.timeout, self.limits.grace)
            if code is None:
                continue
            ended = True
            del self._tasks[place]
            event = task.settle(self.table, code)
            self._seen[task.trial] = self._scanner.look(task.trial)
            if event.kind in ("unclaimed", "taken") and self._seen[task.trial].attempt == task.before:
                # A trial that is refused although nobody has it is no better than one whose process cannot claim.
                self._unclaimed[task.trial] += 1
                self._last_words = event.text.strip().rpartition("\n")[2] or f"exit status {code}"
            elif event.kind == "done" and self.store:
                self.store.keep(self.table, task.trial)
            if self._may_start(task.trial):
                self._queue.insert(0, task.trial)
            self.tell(event)
        return ended

    def _rescan(self, now_or_never: bool = False) -> bool:
        """Look at the whole table now and then; bury the dead, take what the store has. True where that changed it."""
        begin = self._clock()
        if begin < self._next_scan and not now_or_never:
            return False
        self._seen = self._scanner.scan()
        mine = {task.trial for task in self._tasks.values()}
        changed = False
        for name, trial in self._seen.items():
            if name in mine:
                continue
            if trial.state is State.RUNNING:
                changed |= self._judge(trial)
            elif trial.state in STARTABLE and self.store and name not in self._asked_store:
                self._asked_store.add(name)
                if self.store.give(self.table, name):
                    self._seen[name] = self._scanner.look(name)
                    self.tell(Event(kind="cached", trial=name))
                    changed = True
        self._queue = [name for name in self._seen if name not in mine and self._may_start(name)]
        self._order.shuffle(self._queue)
        # A scan that takes long is made less often, so that watching stays a small part of the work.
        self._next_scan = self._clock() + max(self.limits.rescan, 10 * (self._clock() - begin))
        return changed

    def _judge(self, trial: Trial) -> bool:
        """Somebody else's running trial: bury a dead owner; True where the trial runs no more."""
        now = self._orphans.judge(trial)
        self._seen[trial.id] = now
        if now.state is State.RUNNING:
            return False
        if now.state is not State.DONE:
            self.tell(Event(kind="crashed", trial=trial.id, attempt=trial.attempt, text="its owner is gone"))
        return True

    def _may_start(self, name: str) -> bool:
        return self._seen[name].state in STARTABLE and self._unclaimed[name] < self.table.attempts

    def _fill(self) -> bool:
        """Give every free place a trial; True where one was started."""
        started = False
        for place in range(self.executor.capacity() if self._queue else 0):
            while place not in self._tasks and self._queue:
                name = self._queue.pop()
                # One look more, because others share the table; the child's own claim decides.
                self._seen[name] = self._scanner.look(name)
                if self._may_start(name):
                    self._tasks[place] = Task.start(
                        self.table, self.executor, name, tuple(self.command(name)), token=new_token(), place=place
                    )
                    self.tell(Event(kind="started", trial=name, attempt=self._seen[name].attempt + 1))
                    started = True
        return started

    def _verdict(self) -> int | None:
        """The exit status when nothing runs here; None while there is something to start or to wait for."""
        self._rescan(now_or_never=self._resolved())
        if not self._seen:
            return self._nothing("no trial is planned in this directory")
        if not self._resolved():
            if any(trial.state is State.RUNNING for trial in self._seen.values()):
                return None
            if not any(map(self._may_start, self._seen)):
                return self._nothing(f"their processes end before they claim their trial: {self._last_words}")
            if not self.executor.capacity():
                return self._nothing("the executor has no place for them")
            return None
        if any(trial.conflicts for trial in self._seen.values()):
            return CONFLICT
        exhausted = any(trial.state is State.EXHAUSTED for trial in self._seen.values())
        return INCOMPLETE if exhausted else DONE

    def _resolved(self) -> bool:
        return all(trial.state in RESOLVED for trial in self._seen.values())

    def _nothing(self, why: str) -> int:
        open_ones = sum(trial.state not in RESOLVED for trial in self._seen.values())
        self.reason = f"E-NOSLOT: {open_ones} trials pending, and nothing can be started: {why}"
        return NOTHING_STARTED

    def _wind_down(self) -> int | None:
        """After a signal: the first Ctrl-C lets children end by themselves, the second or SIGTERM asks them to."""
        if self._tasks and not self._waiting and signal.SIGTERM not in self._signals:
            self._waiting = True
            count = len(self._tasks)
            what = "the trial that runs" if count == 1 else f"the {count} trials that run"
            text = f"no new trial is started; {what} may end (Ctrl-C again: stop now)"
            self.tell(Event(kind="waiting", trial="", text=text))
        if signal.SIGTERM in self._signals or self._signals.count(signal.SIGINT) > 1:
            for task in self._tasks.values():
                task.stop(self._clock(), "interrupted")
        if self._tasks:
            return None
        return TERMINATED if signal.SIGTERM in self._signals else INTERRUPTED
