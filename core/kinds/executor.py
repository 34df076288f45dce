"""Executor: where whole runs run."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import ClassVar

from core.kinds.plugin import Plugin
from core.study.job import Job, Running


class Executor(Plugin):
    """Starts jobs, each in a process of its own, so that memory is released and one crash stays one crash.

    An executor holds no state: who uses it (`core.study.pool`, `core.study.runner`) counts what runs, gives each job a
    place and keeps what `start` returns.
    """

    KIND: ClassVar[str] = "executor"

    @abstractmethod
    def capacity(self) -> int:
        """How many jobs it takes at a time; 0 where it can take none just now.

        Raises:
            UserError: it cannot be used here (not installed, no such device).
        """

    @abstractmethod
    def start(self, job: Job, output: Path, place: int) -> Running:
        """Start a job and return at once.

        The job outlives the caller: what it does is not lost when the caller is killed.

        Args:
            job: the command line.
            output: file to which its stdout and stderr are appended.
            place: which of the `capacity()` places it takes, counted from 0; nothing else runs there. An executor
                divides GPUs by it.

        Raises:
            UserError: it cannot be used here.
        """
