"""`python -m core` is the command `core`."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

KEPT = {
    "glibc.malloc.mmap_max": "0",
    "glibc.malloc.trim_threshold": str(1 << 40),
    "glibc.malloc.tcache_count": "0",
    "glibc.malloc.mxfast": "0",
}
"""tunables of glibc with which freed memory stays with the process, for its next tensor

By itself glibc maps each block of more than 32 MB anew, and the system has to find and to zero new pages. The last two
let blocks that were freed side by side be one block again: small rests between them would hold them apart.
"""
DECIDED = ("GLIBC_TUNABLES", "MALLOC_MMAP_MAX_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_")
"""variables by which a user says what becomes of freed memory"""


def main() -> int:
    """The command; an interrupt while its modules are still being imported ends it as quietly as a later one."""
    # Threads that wait by spinning for long starve each other on a busy machine, threads that sleep at once are slow on
    # a quiet one; GNU OpenMP reads this when torch is imported. In `core.cli` the process need not be ours, here it is.
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")
    try:
        if _is_command() and (changed := keeping(os.environ)) is not None:
            os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], changed)
        from core.cli import main as command

        return command()
    except KeyboardInterrupt:
        print("core: interrupted", file=sys.stderr)
        return 130


def keeping(environment: Mapping[str, str]) -> dict[str, str] | None:
    """The environment in which the command keeps freed memory; None: there is nothing to change, or no glibc.

    glibc reads its tunables when a process starts, so they take a start of their own.
    """
    if any(name in environment for name in DECIDED) or not sys.executable:
        return None
    try:
        glibc = os.confstr("CS_GNU_LIBC_VERSION")
    except (AttributeError, OSError, ValueError):
        return None
    return {**environment, "GLIBC_TUNABLES": ":".join(map("=".join, KEPT.items()))} if glibc else None


def _is_command() -> bool:
    """Whether this process is the command, and not a program of a user's that calls it."""
    started = str(getattr(sys.modules["__main__"], "__file__", None) or "")
    return started == __file__ or started.rpartition(os.sep)[2] == "core"


if __name__ == "__main__":
    raise SystemExit(main())
