"""What an executor starts, and what it gives back. Apart from `core.kinds`, so that a runner need not import torch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import attrs


@attrs.frozen(kw_only=True)
class Job:
    """One run as a command line."""

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str] = attrs.Factory(dict)
    """variables beside those of the caller"""


@attrs.frozen(kw_only=True)
class Finished:
    """How a job ended."""

    job: Job
    code: int
    """exit status; negative: the signal that ended it"""
    output: str
    """the end of what it printed"""


class Running(ABC):
    """A job that was started; every call returns at once."""

    job: Job
    sure: ClassVar[bool] = False
    """`poll` hears of an end from the operating system itself, not from an engine that may forget a job"""

    @abstractmethod
    def poll(self) -> int | None:
        """None while it waits or runs, then its exit status; negative: the signal that ended it."""

    @abstractmethod
    def terminate(self) -> None:
        """Ask the job and what it started to end (SIGTERM); nothing where it has ended."""

    @abstractmethod
    def kill(self) -> None:
        """End the job and what it started (SIGKILL); nothing where it has ended."""
