"""`core resume`: go on with a run that was stopped or killed."""

from __future__ import annotations

from pathlib import Path

from core.cli.choose import resolve_stored
from core.cli.run import conclude
from core.errors import UserError

HELP = """usage: core resume RUN [-q]

Go on from the newest checkpoint of RUN (a run directory) with the configuration stored there. A run that was killed
at any moment ends as if it had never been: bit-identical on the CPU."""


def main(words: list[str]) -> int:
    if "-h" in words or "--help" in words:
        print(HELP)
        return 0
    if not words:
        raise UserError("which run? usage: core resume RUN [-q]")
    from core.train.rundir import read_record
    from core.train.session import execute, open_run

    quiet = [w for w in words if w in ("-q", "--quiet")]
    rest = [w for w in words if w not in quiet]
    if len(rest) != 1 or rest[0].startswith("-"):
        odd = next((w for w in rest if w.startswith("-")), " ".join(rest))
        raise UserError(
            f"`core resume` takes one run directory, which goes on as it began, not {odd!r}. Use `core run`"
        )
    path = Path(rest[0])
    read_record(path)
    opened = open_run(resolve_stored(path))
    result = execute(opened, str(path), force=False, quiet=bool(quiet), argv=["core", "resume", *words])
    return conclude(*result)
