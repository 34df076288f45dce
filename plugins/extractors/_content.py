"""Where a file is, and who: its content."""

from __future__ import annotations

import functools
import hashlib
import os
from pathlib import Path


def place(text: str) -> Path:
    """A path as a user writes it: `~` and `$NAME` stand for what they mean on this machine."""
    return Path(os.path.expandvars(text)).expanduser()


def content_of(path: Path) -> str:
    """SHA-256 of a file, computed again when its size or time changes."""
    stat = path.stat()
    return _content(path, stat.st_size, stat.st_mtime_ns)


@functools.lru_cache(maxsize=64)
def _content(path: Path, size: int, time: int) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
