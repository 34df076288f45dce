"""`python -m core` is the command `core`."""

from __future__ import annotations

import sys


def main() -> int:
    """The command; an interrupt while its modules are still being imported ends it as quietly as a later one."""
    try:
        from core.cli import main as command

        return command()
    except KeyboardInterrupt:
        print("core: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    raise SystemExit(main())
