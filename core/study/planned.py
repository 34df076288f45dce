"""Which trials a study has: files under `DIR/planned`, one for each time that trials were planned.

A line a trial: its SHA-256, a space, the canonical JSON of its identity, whose SHA-256 that is. The file is called by
the SHA-256 of its bytes, so planning the same trials again writes nothing, and a changed byte is noticed. Ten thousand
trials are planned by one write: making their folders would take longer than a second on many disks.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from core.identity import canonical_json
from core.study.sealed import TableError, publish, told


class Planned:
    """The trials that were planned in a directory.

    Keeps for each trial where its line is, not what it says: memory does not grow with the identities.
    """

    def __init__(self, root: Path) -> None:
        self._folder = root / "planned"
        self._read: set[str] = set()
        self._places: dict[str, tuple[Path, int, int]] = {}

    def add(self, identities: Iterable[Mapping[str, Any]]) -> list[str]:
        """Plan trials; their full digests, in order.

        Raises:
            ValueError: an identity without canonical form.
            TableError: the disk, or E-COLLISION: two trials whose first 16 digits agree.
        """
        lines = {}
        order = []
        for identity in identities:
            text = canonical_json(identity).encode()
            full = hashlib.sha256(text).hexdigest()
            lines[full] = full.encode() + b" " + text + b"\n"
            order.append(full)
        places = self._current()
        folders: dict[str, str] = {}
        for full in lines:
            other = self._full(places[full[:16]]) if full[:16] in places else folders.setdefault(full[:16], full)
            if other != full:
                raise TableError(f"E-COLLISION: {full} and {other} share their folder. Plan them in two studies")
        new = b"".join(lines[full] for full in sorted(lines) if full[:16] not in places)
        if new:
            with told(self._folder):
                self._folder.mkdir(parents=True, exist_ok=True)
            path = self._folder / f"{hashlib.sha256(new).hexdigest()}.txt"
            publish(path, new)
        return order

    def ids(self) -> list[str]:
        """The first 16 digits of every trial, sorted.

        Raises:
            TableError: a file that was changed, or cannot be read.
        """
        return sorted(self._current())

    def __contains__(self, trial: str) -> bool:
        return trial in self._current()

    def identity(self, trial: str) -> tuple[str, dict[str, Any]]:
        """Full digest and identity.

        Raises:
            TableError: no such trial, or the disk.
        """
        place = self._current().get(trial)
        if place is None:
            raise TableError(f"E-TRIAL: {self._folder.parent} has no trial {trial}. `core ablate status` lists them")
        path, start, length = place
        with told(path), path.open("rb") as file:
            file.seek(start)
            full, _, text = file.read(length).partition(b" ")
        if hashlib.sha256(text.rstrip(b"\n")).hexdigest().encode() != full:
            raise _changed(path)
        return full.decode(), json.loads(text)

    def _full(self, place: tuple[Path, int, int]) -> str:
        path, start, _ = place
        with told(path), path.open("rb") as file:
            file.seek(start)
            return file.read(64).decode()

    def _current(self) -> dict[str, tuple[Path, int, int]]:
        """Where each trial's line is; what another planned meanwhile is read too."""
        try:
            with told(self._folder):
                paths = [path for path in self._folder.iterdir() if path.suffix == ".txt"]
        except FileNotFoundError:
            return self._places
        for path in sorted(paths):
            if path.name.startswith(".") or path.name in self._read:
                continue
            with told(path):
                data = path.read_bytes()
            if hashlib.sha256(data).hexdigest() != path.stem:
                raise _changed(path)
            start = 0
            for line in data.splitlines(keepends=True):
                self._places[line[:16].decode()] = (path, start, len(line))
                start += len(line)
            self._read.add(path.name)
        return self._places


def _changed(path: Path) -> TableError:
    return TableError(
        f"E-PLAN: {path} is not what was written: a damaged disk, or somebody edited it. Restore it from a backup; or "
        "delete it and plan again with the same command: finished trials are found again"
    )
