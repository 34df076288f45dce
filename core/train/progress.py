"""What a person sees while a run goes: a bar on a terminal, plain lines elsewhere, and log.txt always."""

from __future__ import annotations

import datetime
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

PLAIN_LINES = 10
"""lines of a training that is not watched on a terminal"""


class Progress:
    """Speaks on standard error, so that standard output holds results only."""

    def __init__(self, *, quiet: bool, log: Path) -> None:
        self.quiet = quiet
        self.console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._log = log.open("a", encoding="utf-8")
        self._bar: Bar | None = None
        self._task: TaskID | None = None
        self._every = 1
        self._valid = ""
        self._began = datetime.datetime.now()
        self._first = 0

    def say(self, text: str) -> None:
        """A sentence for the person and the log."""
        self._write(text)
        if not self.quiet:
            self.console.print(text, markup=False)

    @contextmanager
    def training(self, step: int, total: int) -> Iterator[None]:
        """The time between the first and the last step."""
        self._every = max(1, total // PLAIN_LINES)
        self._began, self._first = datetime.datetime.now(), step
        if self.quiet or not sys.stderr.isatty():
            yield
            return
        columns = (
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[told]}"),
            TimeRemainingColumn(compact=True),
        )
        with Bar(*columns, console=self.console, transient=True) as bar:
            self._bar, self._task = bar, bar.add_task("training", total=total, completed=step, told="")
            yield
        self._bar = None

    def step(self, step: int, loss: float) -> None:
        """A step ended."""
        rate = (step - self._first) / max((datetime.datetime.now() - self._began).total_seconds(), 1e-9)
        told = f"loss {loss:.4f}{self._valid}  {rate:.1f} steps/s"
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=step, told=told)
        elif step % self._every == 0:
            self.say(f"step {step}  {told}")

    def valid(self, step: int, loss: float) -> None:
        """A validation ended."""
        self._valid = f"  valid {loss:.4f}"
        self._write(f"step {step}  validation loss {loss:.4f}")

    def close(self) -> None:
        self._log.close()

    def _write(self, text: str) -> None:
        try:
            self._log.write(f"{datetime.datetime.now().isoformat(timespec='seconds')}  {text}\n")
            self._log.flush()
        except OSError:  # a full disk stops the run where it matters, at the checkpoint, not at a line of the log
            return


@final
class Silent:
    """The curves (`core.kinds.tracker.Track`) of a process that another one writes for."""

    def log(self, step: int, scalars: Mapping[str, float]) -> None:
        """Nothing."""

    def conclude(self, step: int, scores: Mapping[str, float]) -> None:
        """Nothing."""

    def finish(self) -> None:
        """Nothing."""
