"""The states of all trials, again and again, at the price of those that began and are not done."""

from __future__ import annotations

import os

from core.study.sealed import told
from core.study.table import Table
from core.study.trial import State, Trial


class Scanner:
    """Looks at a table repeatedly; a trial that was seen done is not looked at again.

    Reads only. What is remembered is one small record a trial, so memory stays flat however often it scans. A scanner
    does not notice a result that is damaged after it was seen whole; a new one does.
    """

    def __init__(self, table: Table) -> None:
        self.table = table
        self._done: dict[str, Trial] = {}

    def scan(self) -> dict[str, Trial]:
        """Every trial by its id, in order of ids.

        Raises:
            TableError: the directory cannot be read.
        """
        begun = self._begun()
        limit = self.table.attempts
        return {
            name: self._done.get(name)
            or (self.look(name) if name in begun else Trial(id=name, state=State.PENDING, limit=limit))
            for name in self.table.ids()
        }

    def look(self, name: str) -> Trial:
        """One trial, seen now."""
        trial = self.table.look(name)
        if trial.state is State.DONE:
            self._done[name] = trial
        return trial

    def _begun(self) -> set[str]:
        """Trials that have a folder; most have none while a large study is young."""
        trials = self.table.root / "trials"
        try:
            with told(trials):
                return {name for part in os.scandir(trials) for name in os.listdir(part.path)}  # noqa: PTH208
        except FileNotFoundError:
            return set()
