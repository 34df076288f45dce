"""`python -m core` is the command `core`."""

from __future__ import annotations

import os
import sys


def main() -> int:
    """The command; an interrupt while its modules are still being imported ends it as quietly as a later one."""
    # Threads that wait by spinning for long starve each other on a busy machine, threads that sleep at once are slow on
    # a quiet one; GNU OpenMP reads this when torch is imported. In `core.cli` the process need not be ours, here it is.
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")
    try:
        from core.cli import main as command

        return command()
    except KeyboardInterrupt:
        print("core: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    raise SystemExit(main())
