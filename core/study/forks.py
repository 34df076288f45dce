"""Runs that are forked off a process which has torch imported already; `core.study.forkserver` is that process.

Their own end is all that differs from a subprocess: they are children of that process, which tells how they end.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import weakref
from collections.abc import Mapping, Sequence

import attrs

from core.study.forkserver import SIZE
from core.study.owner import process_start

PRELOAD = (
    "torch", "torch._dynamo", "core.cli.ablate.run", "core.cli.choose", "core.cli.run", "core.study.work",
    "core.train.session",
)  # fmt: skip
"""what every run imports, and what it would take it seconds to import; AdamW imports the compiler of torch"""
COMMAND = (sys.executable, "-P", "-m")
LOST = -signal.SIGKILL
"""the status of a job of which only its end is known"""


def available() -> bool:
    """Whether this system has what it takes: a fork that is safe after torch is imported, and handles of processes."""
    return sys.platform == "linux" and hasattr(os, "pidfd_open")


@attrs.define(kw_only=True)
class _Known:
    """What is known of a job."""

    pid: int | None = None
    started: str = ""
    code: int | None = None


@attrs.define(kw_only=True, eq=False)
class Forks:
    """The caller's end of one such process."""

    env: Mapping[str, str]
    channel: socket.socket
    jobs: list[_Known] = attrs.Factory(list)
    gone: bool = False
    """the process is not there any more"""

    @classmethod
    def open(cls, env: Mapping[str, str], preload: Sequence[str] = PRELOAD) -> Forks:
        """Start the process; it imports while we go on.

        Raises:
            OSError: it cannot be started.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            argv = [*COMMAND, "core.study.forkserver", str(theirs.fileno()), *preload]
            nothing = subprocess.DEVNULL
            try:
                subprocess.run(
                    argv, env=env, pass_fds=[theirs.fileno()], check=True, stdin=nothing, stdout=nothing, stderr=nothing
                )
            except (OSError, subprocess.CalledProcessError) as error:
                ours.close()
                raise OSError(f"{argv[0]} -m {argv[3]}: {error}") from error
        opened = cls(env=dict(env), channel=ours)
        weakref.finalize(opened, ours.close)
        return opened

    def start(self, argv: Sequence[str], env: Mapping[str, str], output: int) -> int:
        """Ask for a process that runs `python -P -m ARGV...` in this folder, and return its number here.

        Raises:
            OSError: the process that forks is gone, or the message is longer than it takes.
        """
        folder = os.open(".", os.O_RDONLY)
        try:
            message = json.dumps({"start": len(self.jobs), "argv": [*argv], "env": {**env}}).encode()
            if len(message) > SIZE:
                raise OSError(f"arguments and variables of {len(message)} bytes")
            socket.send_fds(self.channel, [message], [output, folder])
        except ConnectionError:
            self._hear()
            raise
        finally:
            os.close(folder)
        self.jobs.append(_Known())
        return len(self.jobs) - 1

    def poll(self, job: int) -> int | None:
        """None while it waits or runs, then its exit status."""
        self._hear()
        known = self.jobs[job]
        if known.code is None and self.gone and (known.pid is None or process_start(known.pid) != known.started):
            known.code = LOST
        return known.code

    def send_signal(self, job: int, number: signal.Signals) -> None:
        """Signal a job and what it started; nothing where it has ended."""
        if self.poll(job) is not None:
            return
        known = self.jobs[job]
        # Through the process that collects it: to nobody else does its number surely still mean it.
        with contextlib.suppress(OSError):
            self.channel.send(json.dumps({"signal": job, "number": int(number)}).encode())
            return
        if known.pid is not None and process_start(known.pid) == known.started:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(known.pid, number)

    def retire(self) -> None:
        """Start no more; the process ends with its last job."""
        with contextlib.suppress(OSError):
            self.channel.shutdown(socket.SHUT_WR)

    def _hear(self) -> None:
        while not self.gone:
            try:
                data = self.channel.recv(SIZE, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            except ConnectionError:
                data = b""
            if not data:
                self.gone = True
                return
            message = json.loads(data)
            known = self.jobs[message.pop("job")]
            for name, value in message.items():
                setattr(known, name, value)


_latest: list[Forks] = []
"""the one from which runs are forked, kept from one run to the next"""


def forks(env: Mapping[str, str]) -> Forks:
    """The process for these variables, which libraries read when they are imported; an earlier one with others retires.

    Raises:
        OSError: it cannot be started.
    """
    if not (_latest and _latest[0].env == env and not _latest[0].gone):
        for old in _latest:
            old.retire()
        _latest[:] = []
        _latest.append(Forks.open(env))
    return _latest[0]
