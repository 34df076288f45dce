"""A run's directory: who it is, how it stands, and nobody else in it."""

from __future__ import annotations

import fcntl
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import attrs

from core.errors import UserError
from core.files import write_atomic, write_json
from core.identity import difference, digest, same_but_code

SCHEMA = 1
UNFINISHED = "running", "stopped", "failed"


@attrs.define
class RunDir:
    """An open run directory. `run.json` says `running` until everything is written, and `done` only then."""

    path: Path
    record: dict[str, Any]
    _lock: IO[str]

    @classmethod
    def open(cls, path: Path, identity: Mapping[str, Any], record: Mapping[str, Any], force: bool = False) -> RunDir:
        """Create a run directory, or take up the one that holds this very run.

        Args:
            path: the directory.
            identity: what makes this run this run (`core.identity.run_identity`).
            record: further facts for a new `run.json`.
            force: set an earlier run aside as `PATH.old-N` and begin anew.

        Raises:
            UserError: the directory cannot be written, is in use, holds something else, or holds another run.
        """
        path = path.absolute()
        _refuse_strangers(path)
        if force and (path / "run.json").exists():
            with _locked(path):  # a run that is still going on keeps its directory
                _set_aside(path)
        lock = _locked(path)
        try:
            return cls(path, _record(path, identity, record), lock)
        except BaseException:
            lock.close()
            raise

    @classmethod
    def beside(cls, path: Path) -> RunDir:
        """The directory for a process that another one writes for: it is read alone, and not locked."""
        return cls(path.absolute(), {}, io.StringIO())

    @property
    def status(self) -> str:
        return self.record["status"]

    def set(self, **facts: Any) -> None:
        """Add facts to `run.json`, atomically."""
        self.record = {**self.record, **facts}
        write_json(self.path / "run.json", self.record)

    def write(self, name: str, content: bytes | str) -> Path:
        """A file of the run, atomically."""
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, content)
        return path

    def close(self) -> None:
        """Let others in."""
        self._lock.close()


def read_record(path: Path) -> dict[str, Any]:
    """`run.json` of a directory.

    Raises:
        UserError: no run lies there, or its record cannot be read.
    """
    try:
        record = json.loads((path / "run.json").read_text("utf-8"))
    except NotADirectoryError:
        raise UserError(f"{path} is a file; a run's directory is wanted, or a folder of `core export`") from None
    except FileNotFoundError:
        raise UserError(f"{path} holds no run (no run.json). `core run` begins one.") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path / 'run.json'} cannot be read: {error}") from None
    if record.get("schema") != SCHEMA:
        raise UserError(f"{path / 'run.json'} has schema {record.get('schema')!r}; this core reads {SCHEMA}")
    return record


def _record(path: Path, identity: Mapping[str, Any], record: Mapping[str, Any]) -> dict[str, Any]:
    if not (path / "run.json").exists():
        fresh = {
            "schema": SCHEMA,
            "status": "running",
            "digest": digest(identity),
            "identity": dict(identity),
            **record,
        }
        write_json(path / "run.json", fresh)
        return fresh
    old = read_record(path)
    if old["digest"] != digest(identity):
        told = difference(old["identity"], identity)
        if same_but_code(old["identity"], identity):
            from core.train.provenance import code_here, code_of  # which imports torch; reading a record does not

            before = old.get("environment", {})
            there, here = code_of(before), code_here(before.get("distributions", {}))
            versions = f" ({there} there, {here} here)" if there and here else f" ({there})" if there else ""
            raise UserError(
                f"{path} holds the run that is asked for, but made with other code{versions}, whose numbers may be "
                f"others: {told}. Choose another -o, or set it aside with --force"
            )
        raise UserError(f"{path} holds another run: {told}. Choose another -o, or --force")
    return old


def _refuse_strangers(path: Path) -> None:
    """A folder that holds something else than a run is left as it is."""
    try:
        there = [p.name for p in path.iterdir()] if path.is_dir() else []
    except OSError as error:
        raise UserError(f"run directory {path} cannot be read ({error.strerror}); choose another with -o") from None
    strangers = [name for name in there if name != "lock" and not name.endswith(".tmp")]
    if strangers and "run.json" not in there:
        raise UserError(f"{path} is no run directory and not empty ({strangers[0]}, ...); choose a new one with -o")


def _locked(path: Path) -> IO[str]:
    """The directory's lock, held; it is let go when the file is closed or the process ends."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = (path / "lock").open("a+")
    except OSError as error:
        raise UserError(f"run directory {path} cannot be written ({error.strerror}); choose another with -o") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        raise UserError(f"{path} is in use by another process; wait for it, or choose another -o") from None
    return lock


def _set_aside(path: Path) -> None:
    number = 1
    while path.with_name(f"{path.name}.old-{number}").exists():
        number += 1
    try:
        path.rename(path.with_name(f"{path.name}.old-{number}"))
    except OSError as error:
        raise UserError(f"{path} cannot be set aside ({error.strerror}); choose another -o") from None
