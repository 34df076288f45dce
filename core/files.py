"""Files that are either whole or not there."""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path
from typing import Any

from core.errors import UserError


def write_atomic(path: Path, content: bytes | str) -> None:
    """Write under a temporary name beside `path`, flush to disk, rename.

    Raises:
        OSError: the disk is full or the folder cannot be written; `path` is as it was, the temporary file is gone.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    data = content.encode() if isinstance(content, str) else content
    try:
        with temporary.open("wb") as handle:
            handle.write(data)
            handle.flush()
            os.fsync(handle.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def spare(out: Path, *, force: bool) -> None:
    """Refuse to write over a file that a user named with -o, unless --force says so.

    Raises:
        UserError: it is there.
    """
    if out.exists() and not force:
        raise UserError(f"-o {out} is there already: name another file, or give --force to write over it")


def write_json(path: Path, value: Any) -> None:
    """`value` as indented JSON, atomically; nan and infinity are refused."""
    write_atomic(path, json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def sync_folder(path: Path) -> None:
    """Make a rename in a folder survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_file(path: Path) -> None:
    """Flush a file that a library wrote."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
