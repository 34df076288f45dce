"""Results shared by studies: what one study computed, another with the same trial need not compute again.

    STORE/REVISION                 revision of this layout
    STORE/ab/<digest>/result.json  the sealed result, by the trial's full digest

A store is a help, never a need: one that is read-only, full, or of a newer version is told of once, and the study goes
on without it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from core.identity import canonical_json
from core.study.sealed import Damaged, TableError, load, publish, seal, told
from core.study.steps import adopt
from core.study.table import Table

REVISION = 1


class Store:
    """A store of results, or nothing at all where it cannot be used.

    Args:
        root: its directory, made if it is not there.
        tell: called with one sentence when the store cannot be read or written.
    """

    def __init__(self, root: Path, tell: Callable[[str], None]) -> None:
        self.root = root
        self._tell = tell
        self.readable, self.writable = self._opened()

    def give(self, table: Table, trial: str) -> bool:
        """Publish a stored result as the trial's; False where there is none that can be trusted.

        Raises:
            TableError: the study's own directory cannot be written.
        """
        if not self.readable:
            return False
        path = self._path(table.config(trial)[0])
        return path.exists() and adopt(table, trial, path)

    def keep(self, table: Table, trial: str) -> bool:
        """Store a trial's result; False where it is stored already or the store cannot be written."""
        if not self.writable:
            return False
        source = table.folder(trial) / "result.json"
        path = self._path(table.config(trial)[0])
        try:
            body = load(source)
            with told(path):
                path.parent.mkdir(parents=True, exist_ok=True)
            if self._link(source, path) or publish(path, source.read_bytes()):
                return True
            stored = load(path)
        except FileNotFoundError:
            return False
        except Damaged as error:
            self._tell(f"W-STORE: {error}. It is passed over; delete it to store this trial anew")
            return False
        except TableError as error:
            self.writable = False
            self._tell(f"W-STORE: nothing more is stored: {error}")
            return False
        if canonical_json(stored["metrics"]) != canonical_json(body["metrics"]):
            self._tell(
                f"W-STORE: {path} holds other metrics of this very trial than {source}; the stored ones stay. A trial "
                "must repeat its metrics to the last digit"
            )
        return False

    def _path(self, full: str) -> Path:
        return self.root / full[:2] / full / "result.json"

    def _link(self, source: Path, path: Path) -> bool:
        """A hard link costs no space; another file system, or one without links, gets a copy."""
        try:
            os.link(source, path)
        except OSError:
            return False
        return True

    def _opened(self) -> tuple[bool, bool]:
        path = self.root / "REVISION"
        try:
            with told(path):
                self.root.mkdir(parents=True, exist_ok=True)
            if not path.exists():
                publish(path, seal({"revision": REVISION}))
            found = load(path)["revision"]
            writable = os.access(self.root, os.W_OK)
        except (TableError, Damaged, FileNotFoundError) as error:
            self._tell(f"W-STORE: the study goes on without the store {self.root}: {error}")
            return False, False
        if found > REVISION:
            self._tell(
                f"W-STORE: the study goes on without the store {self.root}: a newer cellcore wrote it "
                f"(revision {found}, this one reads up to {REVISION})"
            )
            return False, False
        if not writable:
            self._tell(f"W-STORE: {self.root} cannot be written: results are taken from it, none is added")
        return True, writable
