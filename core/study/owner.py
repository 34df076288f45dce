"""Who holds a trial, and whether it is alive.

A process of this machine is known by its number, its start time and the machine's boot, so that a number used again is
nobody's. Of another machine only the heartbeat is seen, the time stamp of the claim: an owner whose stamp has not moved
for a whole lease, by this observer's own steady clock, is taken for dead. No two machines' clocks are ever compared,
and a wall clock that jumps makes nobody die.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import attrs

from core.study.sealed import Damaged, load

LEASE = 600.0
"""seconds of silence after which an owner on another machine is taken for dead"""
BEAT = 30.0
"""seconds between two heartbeats"""
_NUMBER_OF_START = 19
"""place of a process's start time after its name in /proc/PID/stat, proc(5) field 22"""


@attrs.frozen(kw_only=True)
class Owner:
    """One process of one boot of one machine."""

    host: str
    """machine name, machine id and namespace of process numbers; equal where /proc shows the same processes"""
    boot: str
    pid: int
    started: str
    """start time in ticks since boot; empty where the system does not tell"""


def process_start(pid: int) -> str:
    """When a process began, in ticks since boot; empty if there is none or it has ended and waits to be collected."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[_NUMBER_OF_START]


def this_process() -> Owner:
    """The running process as an owner."""
    system = os.uname()
    machine = _text("/etc/machine-id")[:8]
    try:
        space = str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        space = ""
    return Owner(
        host=f"{system.nodename}/{machine}/{space}",
        boot=_text("/proc/sys/kernel/random/boot_id"),
        pid=os.getpid(),
        started=process_start(os.getpid()),
    )


def _text(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


class Watch:
    """Judges owners from one machine; keeps what it saw of heartbeats."""

    def __init__(
        self,
        *,
        lease: float = LEASE,
        clock: Callable[[], float] = time.monotonic,
        here: Owner | None = None,
        started: Callable[[int], str] = process_start,
    ) -> None:
        self.lease = lease
        self._clock = clock
        self._here = here or this_process()
        self._started = started
        self._seen: dict[Path, tuple[int, float]] = {}

    def alive(self, claim: Path) -> bool:
        """Whether a claim's owner may still be at work; a claim that is gone has none.

        A claim that cannot be read names nobody: it is judged by its heartbeat, as one of another machine.
        """
        try:
            stamp = claim.stat().st_mtime_ns
            body = load(claim)
            owner = Owner(**body["owner"])
        except FileNotFoundError:
            return False
        except Damaged:
            return self._beats(claim, stamp)
        if owner.host != self._here.host or not owner.started:
            return self._beats(claim, stamp)
        return owner.boot == self._here.boot and self._is(owner)

    def lives_here(self, claim: Path) -> bool:
        """Whether a claim's owner is certainly at work on this machine."""
        try:
            owner = Owner(**load(claim)["owner"])
        except (FileNotFoundError, Damaged):
            return False
        return owner.host == self._here.host and owner.boot == self._here.boot and self._is(owner)

    def silent(self, claim: Path) -> float:
        """Seconds for which this watch has seen no heartbeat of a claim."""
        return self._clock() - self._seen[claim][1] if claim in self._seen else 0.0

    def _is(self, owner: Owner) -> bool:
        return bool(owner.started) and self._started(owner.pid) == owner.started

    def _beats(self, claim: Path, stamp: int) -> bool:
        now = self._clock()
        last, since = self._seen.get(claim, (None, now))
        if last != stamp:
            self._seen[claim] = (stamp, now)
            return True
        return now - since <= self.lease
