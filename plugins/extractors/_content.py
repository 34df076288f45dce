"""Who a file is: its content."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path


def content_of(path: Path) -> str:
    """SHA-256 of a file, computed again when its size or time changes."""
    stat = path.stat()
    return _content(path, stat.st_size, stat.st_mtime_ns)


@functools.lru_cache(maxsize=64)
def _content(path: Path, size: int, time: int) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
