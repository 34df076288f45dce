"""Write a report in the formats asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from core.errors import UserError
from core.files import write_atomic
from core.names import near
from core.study.findings import Findings
from core.study.report import latex, markdown, page
from core.study.report.contents import document
from core.study.report.sheets import as_csv, as_h5ad, as_json

FILES: dict[str, tuple[str, Callable[[Findings], str | bytes]]] = {
    "html": ("report.html", lambda findings: page.render(document(findings))),
    "md": ("report.md", lambda findings: markdown.render(document(findings))),
    "tex": ("report.tex", lambda findings: latex.render(document(findings))),
    "csv": ("trials.csv", as_csv),
    "json": ("report.json", as_json),
    "h5ad": ("trials.h5ad", as_h5ad),
}
FORMATS = "html", "md", "tex", "csv", "json"
"""what is written unless other formats are asked for; AnnData takes seconds to import"""


def write(findings: Findings, folder: Path, formats: Sequence[str] = FORMATS) -> list[Path]:
    """Write each format into `folder`, which is made if need be; every file is whole or as it was. Returns the paths.

    Equal findings give equal bytes.

    Raises:
        UserError: an unknown format.
        ValueError: the accounting does not add up; nothing is written.
        OSError: the folder cannot be written.
    """
    for name in formats:
        if name not in FILES:
            raise UserError(f"{name!r} is no format of a report.{near(name, FILES)} There are: {', '.join(FILES)}")
    document(findings)
    made = [(FILES[name][0], FILES[name][1](findings)) for name in dict.fromkeys(formats)]
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, content in made:
        # Half a surrogate pair, as a name that is no UTF-8 gives, has no encoding: show it rather than fail.
        data = content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content
        write_atomic(folder / name, data)
        paths.append(folder / name)
    return paths
