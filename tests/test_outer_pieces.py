"""Tracker, executor, strategy: the pieces around a training."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from core.testing.outer import ExecutorLaws, StrategyLaws, TrackerLaws
from plugins.executors.local import Local
from plugins.executors.submitit import Submitit
from plugins.strategies.single import Single
from plugins.trackers.jsonl import Jsonl


@pytest.mark.parametrize("tracker", [Jsonl()], ids=repr)
class TestTrackers(TrackerLaws):
    def read(self, directory: Path) -> list[tuple[int, dict[str, float]]]:
        lines = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
        return [(line.pop("step"), line) for line in lines]

    def tear(self, directory: Path) -> None:
        with (directory / "metrics.jsonl").open("a") as handle:
            handle.write('{"step": 3, "train')


@pytest.mark.parametrize("executor", [Local(slots=2), Local(slots=4), Submitit(cluster="local", slots=2)], ids=repr)
class TestExecutors(ExecutorLaws):
    pass


@pytest.mark.parametrize("strategy", [Single()], ids=repr)
class TestStrategies(StrategyLaws):
    pass
