"""A study while it runs: what is done, what runs, how long it still takes, and how the arms stand so far."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.table import Table as Grid
from rich.text import Text

from core.errors import UserError
from core.study.findings import Findings
from core.study.folder import Stored
from core.study.report.words import clean
from core.study.scan import Scanner
from core.study.spans import spell_seconds
from core.study.table import Table
from core.study.task import Event
from core.study.trial import RESOLVED, State

PLAIN = "done", "cached", "failed", "crashed", "timeout", "conflict", "unclaimed", "waiting"
"""events that are told a line each where there is no terminal"""
LATE = 5.0
"""seconds after which the table is counted again"""


class View:
    """Shows the events of a runner: a table that changes on a terminal, lines elsewhere, nothing where quiet."""

    def __init__(
        self,
        root: Path,
        stored: Stored,
        slots: int,
        *,
        quiet: bool,
        clock: Callable[[], float] = time.monotonic,
        console: Console | None = None,
    ) -> None:
        self.root, self.stored, self.slots, self.quiet, self.clock = root, stored, max(1, slots), quiet, clock
        self.scanner = Scanner(Table(root, attempts=stored.value("run.attempts")))
        self.counted = -LATE
        self.of = {trial.id: trial for trial in stored.trials}
        self.running: dict[str, float] = {}
        self.took: list[float] = []
        self.done: set[str] = set()
        """trials with a result, or whose arm was given up"""
        self.lost: set[str] = set()
        """trials out of attempts"""
        self.total = 0
        self.notice = ""
        self.at_rung = 0
        """trials that have come to the rung at which arms may be stopped"""
        self.standing: list[tuple[str, str]] = []
        self.console = console or Console(stderr=True)
        self.live: Live | None = None

    def __enter__(self) -> View:
        self._count()
        if not self.quiet and self.console.is_terminal:
            self._judge()
            self.live = Live(get_renderable=self._drawn, console=self.console, refresh_per_second=4, transient=True)
            self.live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.live is not None:
            self.live.__exit__(kind, error, trace)

    def tell(self, event: Event) -> None:
        """One event of the runner."""
        if event.kind == "waiting":
            self.notice = event.text
        elif event.kind == "started":
            self.running[event.trial] = self.clock()
        else:
            began = self.running.pop(event.trial, None)
            if event.trial not in self.of:
                self.at_rung += event.kind == "done"
            elif event.kind in ("done", "cached"):
                self.done.add(event.trial)
                if self.clock() - self.counted > LATE:  # others may be at work too
                    self._count()
                if event.kind == "done" and began is not None:
                    self.took.append(self.clock() - began)
            elif self.scanner.look(event.trial).state is State.EXHAUSTED:
                self.lost.add(event.trial)
        if self.quiet and event.kind != "waiting":
            return
        if self.live is None:
            if event.kind in PLAIN:
                print(self._line(event), file=sys.stderr, flush=True)
            return
        if event.kind in ("done", "cached") and event.trial in self.of:
            self._judge()
        self.live.refresh()

    def left(self) -> float | None:
        """Seconds until the end, by the median trial; None before one is done."""
        if not self.took:
            return None
        each = statistics.median(self.took)
        now = self.clock()
        begun = sum(min(each, now - begin) for begin in self.running.values())
        return max(0.0, (self.total - len(self.done) - len(self.lost)) * each - begun) / self.slots

    def _line(self, event: Event) -> str:
        if event.kind == "waiting":
            return f"core: {event.text}"
        trial = self.of.get(event.trial)
        if trial is None:
            return f"rung: {self.at_rung} trials there" if event.kind == "done" else f"rung: {event.kind} {event.text}"
        name = f"{trial.arm}, seed {trial.seed}" + (f", {trial.block}" if trial.block else "")
        left = self.left()
        rest = f", about {spell_seconds(left)} left" if left is not None and event.kind in ("done", "cached") else ""
        text = f": {event.text.strip().rpartition(chr(10))[2]}" if event.text and event.kind != "done" else ""
        return clean(f"{len(self.done)}/{self.total} {event.kind} {event.trial} {name}{text}{rest}")

    def _count(self) -> None:
        seen = self.scanner.scan()
        self.counted = self.clock()
        self.total = len(seen)
        self.lost = {name for name, trial in seen.items() if trial.state is State.EXHAUSTED}
        self.done = {name for name, trial in seen.items() if trial.state in RESOLVED} - self.lost

    def _judge(self) -> None:
        """How each arm stands; a study that cannot be judged yet stands nowhere."""
        from core.study.conclude import conclude

        try:
            findings = conclude(self.stored, self.scanner.table)
        except UserError:
            return
        self.standing = standing(findings)

    def _drawn(self) -> Grid:
        grid = Grid.grid(padding=(0, 2))
        left = self.left()
        grid.add_row(
            Text(f"{len(self.done)} of {self.total} done" + (f", {self.at_rung} at the rung" if self.at_rung else "")),
            Text(f"{len(self.running)} running" + (f", {len(self.lost)} failed" if self.lost else "")),
            Text(f"about {spell_seconds(left)} left" if left is not None else ""),
        )
        if self.notice:
            grid.add_row(Text("  note"), Text(self.notice))
        for trial, began in [*self.running.items()]:  # drawn by a thread of its own, so that seconds pass
            of = self.of.get(trial)
            name = f"{of.arm} seed {of.seed}" if of else trial
            grid.add_row(Text("  runs"), Text(name), Text(spell_seconds(self.clock() - began)))
        for label, text in self.standing[:20]:
            grid.add_row(Text("  so far"), Text(label), Text(text))
        return grid


def standing(findings: Findings) -> list[tuple[str, str]]:
    """Each arm with its difference to the baseline so far: (`attention=linear`, `+0.012 [-0.003, +0.027], 4 pairs`)."""
    found = []
    for system in findings.systems:
        for arm in system.arms[1:]:
            gap = arm.contrast.difference if arm.contrast else None
            if gap is not None and arm.contrast is not None:
                span = f" [{gap.low:+.4g}, {gap.high:+.4g}]" if gap.low is not None and gap.high is not None else ""
                name = arm.label if len(findings.systems) == 1 else f"{system.system}: {arm.label}"
                found.append((name, f"{gap.value:+.4g}{span}, {arm.contrast.n} pairs"))
    return found
