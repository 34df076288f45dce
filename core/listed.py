"""Folders that a manifest lists exactly: built under a hidden name, and there whole or not at all.

`manifest.json` names every file with its size and SHA-256, what made the folder, and the key of content and parameters
that it was made from. A folder is built beside its place as `.NAME.KEY.partial`, which an interrupted command leaves
for the same command to go on with, and takes its place by a rename.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Set
from pathlib import Path
from typing import Any, final

import attrs

from core.errors import UserError
from core.files import sync_file, sync_folder, write_json

MANIFEST = "manifest.json"
SCHEMA = 1
_LOCK = ".lock"
_BYSTANDERS = frozenset({".git", ".gitattributes", ".cache", ".DS_Store"})
"""what git, the Hugging Face client and the Finder leave in a folder; never read"""


@final
@attrs.frozen
class Listed:
    """A finished folder; sizes were compared with the manifest."""

    path: Path
    made: str
    """what made it, such as `core data stage2`"""
    key: str
    """SHA-256 of what it was made from"""
    files: Mapping[str, tuple[int, str]]
    """relative path -> (bytes, SHA-256)"""

    def content(self) -> str:
        """SHA-256 over names and contents of all files."""
        return hashlib.sha256(json.dumps(sorted(self.files.items())).encode()).hexdigest()

    def json(self, name: str) -> Any:
        """A listed JSON file.

        Raises:
            UserError: it is not listed, or is not the file that was written.
        """
        if name not in self.files:
            raise UserError(f"{self.path} has no {name}: make it anew with `{self.made}`")
        data = (self.path / name).read_bytes()
        if hashlib.sha256(data).hexdigest() != self.files[name][1]:
            raise self._changed(name)
        return json.loads(data)

    def verify(self) -> None:
        """Compare the content of every file with the manifest.

        Raises:
            UserError: a file was changed since.
        """
        for name, (_, sha) in self.files.items():
            if file_sha(self.path / name) != sha:
                raise self._changed(name)

    def _changed(self, name: str) -> UserError:
        return UserError(
            f"{self.path / name} is not the file that `{self.made}` wrote (its SHA-256 differs): make the folder anew"
        )


def read_listed(path: Path, made: str) -> Listed:
    """Open a finished folder, trusting nothing in it.

    Args:
        path: the folder.
        made: the command that is to have made it.

    Raises:
        UserError: no such folder, no manifest, a manifest of something else, or files that are missing, of another
            size, or not listed. Nothing but the manifest is read.
    """
    if not path.is_dir():
        beside = sorted(p.name for p in path.parent.glob("*/") if (p / MANIFEST).is_file())
        raise UserError(
            f"there is no folder {str(path)!r}; folders made by `core data` beside it: {', '.join(beside) or 'none'}"
        )
    manifest = path / MANIFEST
    if not manifest.is_file():
        raise UserError(
            f"{path} has no {MANIFEST}, so it is not a finished folder of `{made}`: give the folder that its -o named"
        )
    said = _manifest(manifest)
    if said["made"] != made:
        raise UserError(f"{path} was made by `{said['made']}`, and what `{made}` makes is wanted here")
    listed = Listed(path, said["made"], said["key"], said["files"])
    present = {name for name in _walk(path) if name != MANIFEST}
    strange = sorted(present - listed.files.keys())
    if strange:
        raise UserError(
            f"{path} holds {_some(strange)}, which its {MANIFEST} does not list: nothing was opened. Move it away, or "
            f"make the folder anew with `{made}`"
        )
    missing = sorted(listed.files.keys() - present)
    if missing:
        raise UserError(f"{path} lacks {_some(missing)}, which its {MANIFEST} lists: make it anew with `{made}`")
    wrong = sorted(n for n, (size, _) in listed.files.items() if (path / n).stat().st_size != size)
    if wrong:
        raise UserError(
            f"{path}: {_some(wrong)} is not of the size that {MANIFEST} lists: it was cut short or replaced; make the "
            f"folder anew with `{made}`"
        )
    return listed


def finished_key(path: Path, made: str) -> str | None:
    """The key of a folder that `made` finished; None where there is nothing.

    Raises:
        UserError: something else lies there, which is not to be overwritten.
    """
    if not path.exists():
        return None
    if path.is_dir() and not any(path.iterdir()):
        return None
    if not (path / MANIFEST).is_file() or _manifest(path / MANIFEST)["made"] != made:
        raise UserError(f"{path} exists and was not made by `{made}`: name another folder with -o, or move it away")
    try:
        return read_listed(path, made).key
    except UserError:
        # A damaged folder of ours is replaced, unless somebody put files of their own there.
        listed = _manifest(path / MANIFEST)["files"]
        strange = sorted({name for name in _walk(path) if name != MANIFEST} - listed.keys())
        if strange:
            raise
        return ""


@final
class Draft:
    """A folder under construction.

    Raises:
        UserError: another process builds the same folder.
    """

    def __init__(self, place: Path, made: str, key: str) -> None:
        self.place = place.absolute()
        self.made = made
        self.key = key
        if not self.place.name:
            raise UserError(f"{place} cannot be replaced by a folder of ours: name another with -o")
        self.path = self.place.with_name(f".{self.place.name}.{key[:16]}.partial")
        self._lock = -1

    def __enter__(self) -> Draft:
        self.place.parent.mkdir(parents=True, exist_ok=True)
        self.path.mkdir(exist_ok=True)
        self._lock = os.open(self.path / _LOCK, os.O_CREAT | os.O_RDWR, 0o644)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._lock)
            raise UserError(f"another process is making {self.place} right now: wait for it, or stop it") from None
        for half in self.path.rglob(".*.tmp"):
            half.unlink()
        return self

    def __exit__(self, *error: object) -> None:
        if self.path.is_dir() and not {*_walk(self.path)} - {_LOCK}:  # nothing that a next command could go on with
            shutil.rmtree(self.path)
        os.close(self._lock)

    def other_drafts(self) -> list[Path]:
        """What interrupted commands with other content or parameters left for the same place."""
        found = self.place.parent.glob(f".{self.place.name}.*.partial")
        return sorted(path for path in found if path != self.path)

    @contextlib.contextmanager
    def file(self, name: str) -> Iterator[Path]:
        """A place to write a file at; it gets its name when the block ends without an error."""
        final_path = self.path / name
        final_path.parent.mkdir(parents=True, exist_ok=True)
        temporary = final_path.with_name(f".{final_path.name}.tmp")
        try:
            yield temporary
            sync_file(temporary)
            temporary.replace(final_path)
        finally:
            temporary.unlink(missing_ok=True)

    def finish(self, wanted: Set[str]) -> Listed:
        """List the wanted files in the manifest and put the folder in its place; an older one there goes away last.

        Whatever else lies in the draft, as interrupted commands leave it, is removed.
        """
        for stray in {*_walk(self.path)} - wanted - {_LOCK}:
            (self.path / stray).unlink()
        names = sorted(wanted)
        files = {name: [(self.path / name).stat().st_size, file_sha(self.path / name)] for name in names}
        write_json(self.path / MANIFEST, {"schema": SCHEMA, "made": self.made, "key": self.key, "files": files})
        for folder in {(self.path / name).parent for name in names}:
            sync_folder(folder)
        (self.path / _LOCK).unlink()
        old = self.place.with_name(f".{self.place.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        if self.place.exists():
            self.place.rename(old)
        self.path.rename(self.place)
        sync_folder(self.place.parent)
        shutil.rmtree(old, ignore_errors=True)
        for other in self.other_drafts():
            shutil.rmtree(other, ignore_errors=True)
        return read_listed(self.place, self.made)


def file_sha(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _manifest(path: Path) -> dict[str, Any]:
    """A manifest, checked entry by entry: a path in it never leads out of its folder."""
    try:
        said = json.loads(path.read_bytes())
        if said["schema"] != SCHEMA:
            raise UserError(
                f"{path} is of schema {said['schema']!r}, and this version reads {SCHEMA}: make the folder anew"
            )
        made, key = str(said["made"]), str(said["key"])
        files = {str(name): (int(size), str(sha)) for name, (size, sha) in said["files"].items()}
        if any(Path(name).is_absolute() or ".." in Path(name).parts for name in files):
            raise ValueError("a path leads out of the folder")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is no manifest of `core data` ({error}): make the folder anew") from None
    return {"made": made, "key": key, "files": files}


def _walk(path: Path) -> Iterator[str]:
    for folder, inner, names in os.walk(path):
        here = Path(folder)
        if here == path:
            inner[:] = [name for name in inner if name not in _BYSTANDERS]
            names = [name for name in names if name not in _BYSTANDERS]
        # A link to a folder is not walked into, so it counts as a file that nobody listed.
        links = [name for name in inner if (here / name).is_symlink()]
        yield from ((here / name).relative_to(path).as_posix() for name in [*names, *links])


def _some(names: list[str]) -> str:
    return names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "")
