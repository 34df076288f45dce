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

    def conclude(self, step: int, scores: Mapping[str, float]) -> None:
        """Add the final scores of a run that was trained to its end, named `task/arm/metric`; all are finite."""

    def finish(self) -> None:
        """Flush and close."""


class Tracker(Plugin):
    """What is told of a run beside `metrics.jsonl`, which every run writes.

    A tracker that fails is silenced with one warning and the run goes on, except where `start` says by a `UserError`
    that what was asked for cannot be, before anything is trained.

    Laws: what was logged is read back in order; reopening at a step forgets what lies after it.
    """

    KIND: ClassVar[str] = "tracker"

    @abstractmethod
    def start(self, directory: Path, step: int) -> Track:
        """Open or reopen the track of a run; lines after `step` are dropped, as those steps will be taken again.

        The directory holds `config.toml` and `run.json` (`core.train.tracked.told`), where a run is what is tracked.

        Raises:
            UserError: what was asked for cannot be, in one sentence.
        """
