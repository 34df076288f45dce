"""Tracker, executor, strategy: the pieces around a training."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from core import part
from core.errors import UserError
from core.kinds import Job


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


@settings(max_examples=20, deadline=None)
@given(
    steps=st.lists(st.integers(0, 50), min_size=1, max_size=20).map(sorted), at=st.integers(0, 50), torn=st.booleans()
)
def test_reopening_a_track_forgets_what_lies_after_the_step(
    tmp_path_factory: pytest.TempPathFactory, steps: list[int], at: int, torn: bool
) -> None:
    """What was logged is read back in order; reopened at a step, later lines and a torn last line are gone."""
    path = tmp_path_factory.mktemp("track")
    tracker = part("tracker", "jsonl")
    track = tracker.start(path, 0)
    for step in steps:
        track.log(step, {"train/loss": step / 7})
    track.finish()
    assert [(r["step"], r["train/loss"]) for r in lines(path)] == [(s, s / 7) for s in steps]
    if torn:
        with (path / "metrics.jsonl").open("a") as handle:
            handle.write('{"step": 3, "train')
    tracker.start(path, at).finish()
    assert [r["step"] for r in lines(path)] == [s for s in steps if s <= at]


@pytest.mark.parametrize("slots", [1, 3])
def test_the_executor_reports_every_job_once_with_its_end(slots: int) -> None:
    """Output and exit status of each job come back, failures and signals included."""
    executor = part("executor", "local", slots=slots)
    codes = {"fine": "print('hello')", "fails": "raise SystemExit(3)", "dies": "import os; os.kill(os.getpid(), 9)"}
    jobs = [Job(name=n, argv=(sys.executable, "-c", c)) for n, c in codes.items()]
    ends = {f.job.name: f for f in executor.run(jobs)}
    assert {n: f.code for n, f in ends.items()} == {"fine": 0, "fails": 3, "dies": -9}
    assert ends["fine"].output == "hello\n"


def test_leaving_the_executor_early_stops_what_runs(tmp_path: Path) -> None:
    """Closing the iterator terminates running jobs and starts no further ones."""
    forever = "import time\nwhile True: time.sleep(0.01)"
    jobs = [Job(name="quick", argv=(sys.executable, "-c", "pass"))]
    jobs += [Job(name=f"slow {i}", argv=(sys.executable, "-c", forever)) for i in range(3)]
    ends = part("executor", "local", slots=2).run(jobs)
    assert next(ends).job.name == "quick"
    ends.close()


def test_a_device_that_is_not_there_is_refused() -> None:
    """`--device cuda` on a machine without one is the user's mistake, with a way out."""
    if torch.cuda.is_available():
        assert part("strategy", "single").device("cuda").type == "cuda"
    else:
        with pytest.raises(UserError, match="--device cpu"):
            part("strategy", "single").device("cuda")
    assert part("strategy", "single").device("cpu").type == "cpu"
