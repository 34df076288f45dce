"""Curves as JSON lines: one file, readable by everything, exact after a crash."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from core.files import write_atomic
from core.kinds import Track, Tracker
from core.params import params

FILE = "metrics.jsonl"


@params
class Jsonl(Tracker):
    """Appends `{"step": ..., name: value, ...}` to metrics.jsonl of the run; it is written beside any other tracker."""

    def start(self, directory: Path, step: int) -> Track:
        path = directory / FILE
        kept = [line for line in _whole_lines(path) if json.loads(line)["step"] <= step]
        write_atomic(path, "".join(line + "\n" for line in kept))
        return _Track(path.open("a", encoding="utf-8"))


class _Track:
    def __init__(self, handle: IO[str]) -> None:
        self._handle = handle

    def log(self, step: int, scalars: Mapping[str, float]) -> None:
        self._handle.write(json.dumps({"step": step, **scalars}) + "\n")
        self._handle.flush()

    def conclude(self, step: int, scores: Mapping[str, float]) -> None:
        """Nothing: curves are read from here, and final scores stand in evaluation.json."""

    def finish(self) -> None:
        self._handle.close()


def _whole_lines(path: Path) -> list[str]:
    """Lines that end; a kill may have cut the last one."""
    if not path.exists():
        return []
    return [line for line in path.read_text("utf-8").split("\n")[:-1] if line]
