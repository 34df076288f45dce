"""Tracker: where a run's curves go."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Protocol

from core.kinds.plugin import Plugin


class Track(Protocol):
    """An open track of one run."""

    def log(self, step: int, scalars: Mapping[str, float]) -> None:
        """Add one line of named numbers; steps never fall."""

    def finish(self) -> None:
        """Flush and close."""


class Tracker(Plugin):
    """Laws: what was logged is read back in order; reopening at a step forgets what lies after it."""

    KIND: ClassVar[str] = "tracker"

    @abstractmethod
    def start(self, directory: Path, step: int) -> Track:
        """Open or reopen the track of a run; lines after `step` are dropped, as those steps will be taken again."""
