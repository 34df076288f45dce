"""`core report`: draw the report of a run anew."""

from __future__ import annotations

import sys
from pathlib import Path

from core.cli.choose import resolve_stored
from core.cli.run import conclude
from core.errors import UserError

HELP = """usage: core report RUN

Draw figures and report.html of RUN (a run directory) anew from its files, and print its table."""


def main(words: list[str]) -> int:
    if "-h" in words or "--help" in words:
        print(HELP)
        return 0
    if not words:
        raise UserError("which run? usage: core report RUN")
    if len(words) > 1:
        raise UserError(f"`core report` takes one run directory; {words[1]!r} is too much")
    from core.hooks import Hooks
    from core.registry import installed
    from core.report.write import write_report
    from core.train.rundir import read_record
    from core.train.session import report_sections

    path = Path(words[0])
    record = read_record(path)
    if record["status"] != "done":
        raise UserError(f"{path} is not complete ({record['status']}); `core resume {path}` finishes it")
    if "exported" in record:
        raise UserError(f"{path} is an exported model, without what figures need; the report lies in the run itself")
    run = resolve_stored(path).root
    hooks = Hooks(installed(), lambda text: print(f"core: {text}", file=sys.stderr))
    write_report(path, run.system, report_sections(hooks, path))
    return conclude(path, "done")
