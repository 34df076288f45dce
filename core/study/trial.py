"""The state of a trial, derived from the names of the files in its folder and never stored a second time.

config.json                    what the trial is
claim.K                        somebody began attempt K
failed.K.json, crashed.K.json, timeout.K.json, interrupted.K.json    how attempt K ended without a result
result.json                    what came out; conflict.K.json: attempt K came to something else
stopped.json                   its arm was given up
retry.K.json                   more attempts were granted after attempt K
result.corrupt.K               a result whose bytes had changed, moved aside
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

import attrs

ENDS = ("failed", "crashed", "timeout", "interrupted")
"""how an attempt may end without a result; one that was interrupted by the user does not count against the limit"""


class State(StrEnum):
    """Where a trial stands."""

    PENDING = "pending"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CRASHED = "crashed"
    TIMEOUT = "timeout"
    EXHAUSTED = "exhausted"
    STOPPED = "stopped"


STARTABLE = frozenset({State.PENDING, State.FAILED, State.CRASHED, State.TIMEOUT})
RESOLVED = frozenset({State.DONE, State.STOPPED, State.EXHAUSTED})
"""states in which nothing more happens by itself"""


@attrs.frozen(kw_only=True)
class Trial:
    """One trial as its files say."""

    id: str
    """first 16 hex digits of its digest, the folder's name"""
    state: State
    attempt: int = 0
    """number of the last attempt, 0 before the first"""
    counted: int = 0
    """attempts that count against the limit"""
    limit: int
    cached: bool = False
    """its result was made by another study and taken from the store"""
    conflicts: int = 0
    damaged: bool = False
    """there is a result whose bytes have changed; it counts as absent"""

    @property
    def word(self) -> str:
        """How it stands, for people: a trial whose result was damaged would otherwise seem to run."""
        return "damaged" if self.damaged else str(self.state)


@attrs.define
class Files:
    """The names in a trial's folder, sorted by what they mean."""

    claims: set[int] = attrs.Factory(set)
    ends: dict[int, set[str]] = attrs.Factory(dict)
    retries: set[int] = attrs.Factory(set)
    corrupt: int = 0
    conflicts: int = 0
    result: bool = False
    stopped: bool = False

    @property
    def attempt(self) -> int:
        return max(self.claims, default=0)

    @property
    def counted(self) -> int:
        return sum(self.ends.get(k) != {"interrupted"} for k in self.claims)

    @property
    def running(self) -> bool:
        """The last attempt has neither ended nor come to a result; its owner may be dead."""
        return bool(self.claims) and self.attempt not in self.ends


def sort_names(names: Iterable[str]) -> Files:
    """What the names in a trial's folder say; names of nobody's are passed over."""
    files = Files()
    for name in names:
        if name == "result.json":
            files.result = True
        elif name == "stopped.json":
            files.stopped = True
        elif name.startswith("result.corrupt."):
            files.corrupt += 1
        else:
            what, _, rest = name.partition(".")
            number = rest.removesuffix(".json")
            if not number.isdecimal():
                continue
            if what == "claim":
                files.claims.add(int(number))
            elif what in ENDS:
                files.ends.setdefault(int(number), set()).add(what)
            elif what == "retry":
                files.retries.add(int(number))
            elif what == "conflict":
                files.conflicts += 1
    return files


def derive(files: Files, done: bool, limit: int) -> State:
    """The state; `done`: the result is there and whole."""
    if done:
        return State.DONE
    if files.stopped:
        return State.STOPPED
    if files.running:
        return State.RUNNING
    if files.counted >= limit:
        return State.EXHAUSTED
    last = files.ends.get(files.attempt, set()) - {"interrupted"}
    return State(min(last)) if last else State.PENDING
