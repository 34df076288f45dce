"""`core resume`: go on with a run that was stopped or killed."""

from __future__ import annotations

from pathlib import Path

from core.cli.choose import resolve_run, take_apart
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

    path = Path(words[0])
    said = take_apart(words[1:], switches={"-q": "quiet", "--quiet": "quiet"}, options={})
    if said.overrides or said.files:
        raise UserError(
            f"a run goes on as it began; {(said.overrides + said.files)[0]} would change it. Use `core run`"
        )
    read_record(path)
    config = path / "config.toml"
    if not config.exists():
        raise UserError(f"{path} was left before its configuration was written; give the first command again")
    opened = open_run(resolve_run([str(config)], []))
    result = execute(opened, str(path), force=False, quiet="quiet" in said.switches, argv=["core", "resume", *words])
    return conclude(*result)
