"""`core ablate report`: findings as tables, page and data."""

from __future__ import annotations

from pathlib import Path

from core.cli.ablate.words import directory
from core.errors import UserError

FORMATS = "html", "md", "tex", "csv", "json"


def report(words: list[str]) -> int:
    """Draw the report anew, also of a study that is not finished."""
    options = {"--format": "format", "--metric": "analysis.metric", "--alpha": "analysis.alpha",
               "--margin": "analysis.margin", "--mde": "analysis.mde"}  # fmt: skip
    root, more, said = directory(words, "report", options=options)
    if more:
        raise UserError(f"`core ablate report` takes one directory, not {more[0]!r} too")
    formats = tuple(said.options.get("format", ",".join(FORMATS)).split(","))
    changed = {key: value for key, value in said.options.items() if key != "format"}
    if changed:
        from core.cli.ablate.change import change_analysis

        change_analysis(root, changed)
    return draw(root, formats)


def draw(root: Path, formats: tuple[str, ...] = FORMATS) -> int:
    """Write the report into the study's directory and print what it says; 0, or 3 where trials are missing."""
    from core.study.conclude import conclude
    from core.study.folder import read
    from core.study.report import write
    from core.study.report.console import show
    from core.study.table import Table

    stored = read(root)
    findings = conclude(stored, Table(root, attempts=stored.value("run.attempts")))
    paths = write(findings, root, formats)
    show(findings)
    for path in paths:
        print(f"{path.suffix[1:]:8} {path}")
    return 0 if findings.complete else 3
