"""What jobs print, kept within bounds: a child that prints without end must not fill the disk."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import IO

LIMIT = 4 * 2**20
"""bytes of output that are kept of one attempt"""


def open_output(path: Path) -> IO[bytes]:
    """A file for a child's output; it appends, so that the file can be cut while the child writes."""
    return path.open("ab")


def cut(handle: int, limit: int = LIMIT) -> int:
    """Cut a file of output that has grown beyond `limit` bytes to its beginning and its end; the bytes dropped.

    The child may go on writing. `handle` is open for reading and appending.
    """
    size = os.fstat(handle).st_size
    if size <= limit:
        return 0
    part = limit // 4
    tail = os.pread(handle, part, size - part)
    dropped = size - 2 * part
    os.ftruncate(handle, part)
    os.write(handle, b"\n[... %d bytes of output were dropped here: the limit is %d ...]\n" % (dropped, limit) + tail)
    return dropped


def end_of(path: Path, characters: int = 20_000) -> str:
    """The end of what a job printed; empty where it printed nothing."""
    with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 4 * characters))
        return file.read().decode(errors="replace")[-characters:]
    return ""
