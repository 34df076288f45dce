"""Where a run's curves go: `metrics.jsonl` always, and beside it the tracker that was asked for, which may fail."""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, final

from core.errors import UserError
from core.kinds import Evaluation, Track, Tracker
from core.registry import installed

RECORD = "jsonl"
"""the tracker that every run has: reports, studies and audits read what it writes"""


def open_track(tracker: Tracker, directory: Path, step: int, say: Callable[[str], None]) -> Track:
    """The tracks of a run as one.

    Args:
        tracker: what was chosen.
        directory: of the run.
        step: where the run begins or goes on; what lies after it is forgotten.
        say: hears in one sentence that a tracker is silenced.

    Raises:
        UserError: the tracker says that it cannot do what was asked for.
    """
    kind = installed().find("tracker", RECORD).row.load()
    beside = None if isinstance(tracker, kind) else _Isolated(tracker, directory, step, say)
    return _Tracks(kind().start(directory, step), beside)


def finals(evaluation: Evaluation) -> dict[str, float]:
    """The finite scores of an evaluation as `task/arm/metric`."""
    return {f"{s.task}/{s.arm}/{s.metric}": s.value for s in evaluation.scores if math.isfinite(s.value)}


def told(directory: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Configuration, and who the run is: what trackers tell of a run beside its numbers.

    Of the command, the machine and the places of files nothing is told. Both are empty where there is no run.
    """
    try:
        record = json.loads((directory / "run.json").read_text("utf-8"))
        config = tomllib.loads((directory / "config.toml").read_text("utf-8"))
    except FileNotFoundError:
        return {}, {}
    for elsewhere in ("tracker", "executor", "device"):
        config.pop(elsewhere, None)
    if isinstance(config.get("data"), dict):
        config["data"].pop("path", None)
    facts = {key: record[key] for key in ("digest", "system", "seed", "parameters", "flops_per_step", "started")}
    card = record["data"]
    return config, facts | {"data": card["name"], "fingerprint": card["fingerprint"]}


@final
class _Isolated:
    """A tracker whose failures are told once, after which it is left alone."""

    def __init__(self, tracker: Tracker, directory: Path, step: int, say: Callable[[str], None]) -> None:
        self._name, self._say = type(tracker).__name__, say
        self._track: Track | None = None
        try:
            self._track = tracker.start(directory, step)
        except UserError:
            raise
        except Exception as error:  # noqa: BLE001 - a service and its client may raise anything
            self._silence(error)

    def call(self, method: str, *given: Any) -> None:
        if self._track is None:
            return
        try:
            getattr(self._track, method)(*given)
        except Exception as error:  # noqa: BLE001 - as above
            self._silence(error)

    def _silence(self, error: Exception) -> None:
        self._track = None
        reason = " ".join(str(error).split())[:240]
        self._say(
            f"warning: tracker {self._name} failed and is silenced ({type(error).__name__}: {reason}); the run goes "
            "on, and metrics.jsonl holds its curves"
        )


@final
class _Tracks:
    """The record of a run, whose failure is the run's, and another track beside it."""

    def __init__(self, record: Track, beside: _Isolated | None) -> None:
        self._record, self._beside = record, beside

    def log(self, step: int, scalars: Mapping[str, float]) -> None:
        self._record.log(step, scalars)
        self._aside("log", step, scalars)

    def conclude(self, step: int, scores: Mapping[str, float]) -> None:
        self._record.conclude(step, scores)
        self._aside("conclude", step, scores)

    def finish(self) -> None:
        self._record.finish()
        self._aside("finish")

    def _aside(self, method: str, *given: Any) -> None:
        if self._beside is not None:
            self._beside.call(method, *given)
