"""`core resume`: go on with a run that was stopped or killed."""

from __future__ import annotations

from pathlib import Path

from core.cli.choose import Words, resolve_stored, take_apart
from core.cli.run import perform
from core.config import Resolved
from core.errors import UserError
from core.layers import is_flag

HELP = """usage: core resume RUN [--data FILE] [-q]

Go on from the newest checkpoint of RUN (a run directory) with the configuration stored there. A run that was killed
at any moment ends as if it had never been: bit-identical on the CPU.

  --data FILE    where the data lie now, if they were moved; their content must be what the run began with
  -q, --quiet    no progress

Other flags of `core run` may follow where they cannot change a number (`--device`, `--devices`, `--train.keep`)."""

SWITCHES = {"-h": "help", "--help": "help", "-q": "quiet", "--quiet": "quiet"}


def main(words: list[str]) -> int:
    runs, said = _apart(words)
    if "help" in said.switches:
        print(HELP)
        return 0
    if not runs:
        raise UserError("which run? usage: core resume RUN [--data FILE] [-q]")
    if len(runs) > 1:
        raise UserError(f"`core resume` takes one run directory, not {' and '.join(runs)}")
    from core.train.rundir import read_record
    from core.train.session import open_run

    path = Path(runs[0])
    if "exported" in read_record(path):
        raise UserError(f"{path} is an exported model, without the state that training goes on from; resume its run")
    resolved = resolve_stored(path, said.overrides)
    _refuse_another_run(resolved, resolve_stored(path) if said.overrides else resolved)
    try:
        opened = open_run(resolved)
    except UserError as error:
        hint = f"; if the data were moved, `core resume {path} --data FILE` says where they are"
        raise UserError(f"{error}{'' if said.overrides else hint}") from None
    return perform(opened, str(path), force=False, quiet="quiet" in said.switches, words=["resume", *words])


def _refuse_another_run(resolved: Resolved, stored: Resolved) -> None:
    for path, setting in resolved.settings.items():
        before = stored.settings.get(path)
        if setting.identity and (before is None or before.value != setting.value):
            was = "absent" if before is None else before.value
            raise UserError(
                f"{path} = {setting.value} ({setting.origin}) would make another run, as it was {was}: `core resume` "
                "goes on as the run began. Use `core run`"
            )


def _apart(words: list[str]) -> tuple[list[str], Words]:
    """The run directories, and the rest. A directory is the word that stands behind no flag."""
    runs: list[str] = []
    rest: list[str] = []
    for before, word in zip(["", *words], words, strict=False):
        behind = before.startswith("--") and "=" not in before and before not in SWITCHES
        (rest if behind or is_flag(word) else runs).append(word)
    return runs, take_apart(rest, switches=SWITCHES, options={})
