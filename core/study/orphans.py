"""Trials of other runners: buried when their owner is dead, ended when their runner is dead and their time is over.

A child outlives its runner. Were nobody to end it when it hangs, a study whose runner was killed would never end.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import signal
from collections.abc import Callable

import attrs

from core.study.owner import process_start, this_process
from core.study.sealed import Damaged, load
from core.study.steps import bury
from core.study.table import Table
from core.study.trial import State, Trial


@attrs.frozen(kw_only=True)
class Limits:
    """What a runner grants a trial; none of it is part of a trial's identity."""

    timeout: float | None = None
    """seconds from the moment a trial begins; None: no limit"""
    grace: float = 30.0
    """seconds between asking a trial to end and ending it"""
    rescan: float = 1.0
    """least seconds between two looks at the whole table"""


def new_token() -> str:
    """A word that no other start of a process has; it names the runner too."""
    me = this_process()
    return f"{me.pid}.{me.started}.{_short(me.host)}.{secrets.token_hex(8)}"


def runner_lives(token: str) -> bool:
    """Whether the runner that made a token is alive; where that cannot be told from this machine, it is."""
    pid, started, host, *_ = [*token.split("."), "", "", ""]
    if not (pid.isdecimal() and started) or host != _short(this_process().host):
        return True
    return process_start(int(pid)) == started


def _short(host: str) -> str:
    return hashlib.sha256(host.encode()).hexdigest()[:8]


class Orphans:
    """Judges trials that run and are not this runner's own."""

    def __init__(self, table: Table, limits: Limits, clock: Callable[[], float]) -> None:
        self._table = table
        self._limits = limits
        self._clock = clock
        self._since: dict[tuple[str, int], float] = {}
        self._pressed: set[tuple[str, int]] = set()

    def judge(self, trial: Trial) -> Trial:
        """The trial as it stands after a look at its owner.

        Raises:
            TableError: the disk.
        """
        now = self._clock()
        key = (trial.id, trial.attempt)
        since = self._since.setdefault(key, now)
        if self._limits.timeout is not None:
            over = now - since - self._limits.timeout
            if over > 0 and self._press(trial, kill=over > self._limits.grace):
                self._pressed.add(key)
        found = bury(self._table, trial.id, "timeout" if key in self._pressed else "crashed")
        if found.state is not State.RUNNING:
            self._since.pop(key, None)
            self._pressed.discard(key)
        return found

    def _press(self, trial: Trial, kill: bool) -> bool:
        """Ask, then force, an orphan of this machine and what it started to end; False where it is no orphan."""
        path = self._table.claim_path(trial.id, trial.attempt)
        try:
            body = load(path)
        except (FileNotFoundError, Damaged):
            return False
        if runner_lives(body["token"]) or not self._table.watch.lives_here(path):
            return False
        pid, number = body["owner"]["pid"], signal.SIGKILL if kill else signal.SIGTERM
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if os.getpgid(pid) == pid:  # it leads the session that its executor gave it
                os.killpg(pid, number)
            else:
                os.kill(pid, number)
        return True
