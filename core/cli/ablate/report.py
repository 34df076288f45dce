"""`core ablate report`: findings as tables, page and data."""

from __future__ import annotations

from pathlib import Path

from core.cli.ablate.words import directory


def report(words: list[str]) -> int:
    """Draw the report anew, also of a study that is not finished."""
    options = {"--format": "format", "--metric": "analysis.metric", "--alpha": "analysis.alpha",
               "--margin": "analysis.margin", "--mde": "analysis.mde", "-o": "out", "--out": "out"}  # fmt: skip
    root, _, said = directory(words, "report", options=options)
    formats = said.options.get("format")
    changed = {key: value for key, value in said.options.items() if key not in ("format", "out")}
    if changed:
        from core.cli.ablate.change import change_analysis

        change_analysis(root, changed)
    out = said.options.get("out")
    return draw(root, tuple(formats.split(",")) if formats else None, Path(out) if out else None)


def draw(root: Path, formats: tuple[str, ...] | None = None, out: Path | None = None) -> int:
    """Write the report, into the study's directory or another, and print it; 0, or 3 where trials are missing."""
    from core.study.conclude import conclude
    from core.study.folder import read
    from core.study.report import FORMATS, write
    from core.study.report.console import show
    from core.study.table import Table

    stored = read(root)
    findings = conclude(stored, Table(root, attempts=stored.value("run.attempts")))
    paths = write(findings, out or root, formats or FORMATS)
    show(findings)
    for path in paths:
        print(f"{path.suffix[1:]:8} {path}")
    return 0 if findings.complete else 3
