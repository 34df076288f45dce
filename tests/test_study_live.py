"""What is shown of a study while it runs."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from core.study.folder import Stored
from core.study.live import View
from core.study.steps import claim, end
from core.study.table import Table
from core.study.task import Event
from made import made, put, scores


class Clock:
    """Seconds that pass when told."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def study(tmp_path: Path) -> tuple[Stored, Table]:
    return made(tmp_path / "study", seeds=range(3))


def console(terminal: bool) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, width=200, height=60, color_system=None)


def work(view: View, table: Table, trials: list[str], clock: Clock, seconds: float) -> None:
    """Trials one after the other, each of so many seconds."""
    for i, trial in enumerate(trials):
        view.tell(Event(kind="started", trial=trial, attempt=1))
        clock.now += seconds
        put(table, trial, scores(0.5 + 0.01 * i * i))
        view.tell(Event(kind="done", trial=trial, attempt=1))


def test_lines_where_there_is_no_terminal(study: tuple[Stored, Table], capsys: pytest.CaptureFixture[str]) -> None:
    """Each end is a line with the count, the arm, the seed and the time left by the median trial over the slots."""
    stored, table = study
    clock = Clock()
    with View(stored.root, stored, 2, quiet=False, clock=clock, console=console(False)) as view:
        work(view, table, [t.id for t in stored.trials[:2]], clock, 10.0)
        assert view.left() == (len(stored.trials) - 2) * 10.0 / 2
        view.tell(Event(kind="failed", trial=stored.trials[2].id, attempt=1, text="RuntimeError: boom"))
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith(f"1/{len(stored.trials)} done {stored.trials[0].id} {stored.trials[0].arm}, seed 0")
    assert lines[1].endswith("left")
    assert lines[2].endswith("RuntimeError: boom")
    assert lines[2].startswith(f"2/{len(stored.trials)} failed")


def test_what_others_finish_is_counted(study: tuple[Stored, Table]) -> None:
    """A second runner's results show once the table is looked at again."""
    stored, table = study
    clock = Clock()
    with View(stored.root, stored, 1, quiet=True, clock=clock) as view:
        for trial in stored.trials[3:5]:
            put(table, trial.id, scores(0.5))
        work(view, table, [stored.trials[0].id], clock, 60.0)
        assert len(view.done) == 3


def test_a_terminal_shows_counts_running_trials_and_intervals(study: tuple[Stored, Table]) -> None:
    """Done and running, and each arm's difference with its interval as soon as there are pairs."""
    stored, table = study
    clock, screen = Clock(), console(True)
    with View(stored.root, stored, 1, quiet=False, clock=clock, console=screen) as view:
        work(view, table, [t.id for t in stored.trials], clock, 5.0)
        view.tell(Event(kind="started", trial=stored.trials[0].id, attempt=2))
        assert view.standing
        assert all("3 pairs" in text and "[" in text for _, text in view.standing)
        page = console(False)
        page.print(view._drawn())
    assert "so far" in screen.file.getvalue()  # type: ignore[attr-defined]
    shown = page.file.getvalue()  # type: ignore[attr-defined]
    assert f"{len(stored.trials)} of {len(stored.trials)} done" in shown
    assert "1 running" in shown
    assert all(label in shown and text in shown for label, text in view.standing)


def test_a_failed_attempt_is_nothing_done(study: tuple[Stored, Table], capsys: pytest.CaptureFixture[str]) -> None:
    """A trial out of attempts counts as failed and no longer as work; one that is done is counted once."""
    stored, table = study
    name = stored.trials[0].id
    with View(stored.root, stored, 1, quiet=False, clock=Clock(), console=console(False)) as view:
        for attempt in (1, 2):
            mine = claim(table, name)
            end(table, name, mine.attempt, "failed", {"message": "boom\x1b[31m"})
            view.tell(Event(kind="failed", trial=name, attempt=attempt, text="boom\x1b[31m"))
            assert (len(view.done), len(view.lost)) == (0, attempt // 2)
        for _ in range(2):
            view.tell(Event(kind="done", trial=stored.trials[1].id, attempt=1))
        assert len(view.done) == 1
        view.tell(Event(kind="waiting", trial="", text="one trial may end"))
    told = capsys.readouterr().err
    assert "\x1b" not in told
    assert f"1/{len(stored.trials)} done" in told
    assert told.endswith("core: one trial may end\n")


def test_the_rung_is_no_end(study: tuple[Stored, Table], capsys: pytest.CaptureFixture[str]) -> None:
    """Trials that come to the rung are told as that, and count as nothing done."""
    stored, _ = study
    with View(stored.root, stored, 1, quiet=False, clock=Clock(), console=console(False)) as view:
        view.tell(Event(kind="started", trial="f" * 16, attempt=1))
        view.tell(Event(kind="done", trial="f" * 16, attempt=1))
    assert (view.done, view.at_rung) == (set(), 1)
    assert capsys.readouterr().err == "rung: 1 trials there\n"
