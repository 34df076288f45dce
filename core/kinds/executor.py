"""Executor: where whole runs run."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import ClassVar

import attrs

from core.kinds.plugin import Plugin


@attrs.frozen(kw_only=True)
class Job:
    """One run as a command line."""

    name: str
    argv: tuple[str, ...]


@attrs.frozen(kw_only=True)
class Finished:
    """How a job ended."""

    job: Job
    code: int
    """exit status; negative: the signal that ended it"""
    output: str
    """the end of what it printed"""


class Executor(Plugin):
    """Runs jobs, each in a process of its own, so that memory is released and one crash stays one crash."""

    KIND: ClassVar[str] = "executor"

    @abstractmethod
    def run(self, jobs: Sequence[Job]) -> Iterator[Finished]:
        """Each job's end, as it comes. Closing the iterator stops what still runs."""
