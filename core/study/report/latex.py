r"""The tables of a report for a paper: `\usepackage{booktabs}`, then `\input{report.tex}`; without figures."""

from __future__ import annotations

import attrs

from core.study.report.blocks import Boxes, Cell, Document, Table
from core.study.report.words import DASH

WIDEST = 7
"""columns beside the first that a page holds"""
_WORDS = {
    "\N{NO-BREAK SPACE}": "~", "≈": r"$\approx$", "²": r"$^2$",
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "_": r"\_", "%": r"\%",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': "''", "−": "$-$", "–": "--", "×": r"$\times$",
    "±": r"$\pm$", "↑": r"$\uparrow$", "↓": r"$\downarrow$", "≤": r"$\leq$", "≥": r"$\geq$",
    "→": r"$\to$", "…": r"\dots{}", "α": r"$\alpha$", "β": r"$\beta$", "γ": r"$\gamma$", "δ": r"$\delta$",
    "λ": r"$\lambda$", "μ": r"$\mu$", "µ": r"$\mu$", "ρ": r"$\rho$", "σ": r"$\sigma$",
}  # fmt: skip


def render(document: Document) -> str:
    """The answer as comments and text, then one `table` for each table."""
    parts = [f"% {document.title.encode('ascii', 'backslashreplace').decode()}", "% needs \\usepackage{booktabs}"]
    if document.missing:
        parts.append("\\textbf{INCOMPLETE.} " + say("; ".join(document.missing)) + ".\n")
    parts += [say(text) + "\n" for text in document.answer]
    for section in document.sections:
        for block in section.blocks:
            if isinstance(block, Table):
                parts += map(_table, _narrow(block))
            elif isinstance(block, Boxes):
                parts.append(_table(_verdicts(block)))
    return "\n".join(parts) + "\n"


def say(text: str) -> str:
    """`text` as LaTeX: nothing in it is a command. Letters that pdflatex does not know are spelled as U+4E2D."""
    return "".join(
        _WORDS.get(c, c if c.isascii() or (c.isalpha() and ord(c) < 0x180) else f"[U+{ord(c):04X}]") for c in text
    )


def _verdicts(block: Boxes) -> Table:
    rows = tuple(
        (Cell(b.name), Cell(b.word), Cell(b.size or DASH), Cell("; ".join(filter(None, [b.why, b.facts]))))
        for b in block.boxes
    )
    return Table(title=block.title, header=("arm", "verdict", "effect", "why"), rows=rows)


def _narrow(table: Table) -> list[Table]:
    """Tables of at most so many columns; each repeats the first column, which names the rows."""
    columns = len(table.header) - 1
    parts = -(-columns // WIDEST)
    if parts <= 1:
        return [table]
    size = -(-columns // parts)
    chosen = [[0, *range(start, min(start + size, columns + 1))] for start in range(1, columns + 1, size)]
    return [
        attrs.evolve(
            table,
            title=f"{table.title} ({i + 1} of {parts})",
            header=tuple(table.header[j] for j in at),
            rows=tuple(tuple(row[j] for j in at) for row in table.rows),
            note=table.note if i == parts - 1 else "",
        )
        for i, at in enumerate(chosen)
    ]


def _table(table: Table) -> str:
    sides = "".join(_side(table, j) for j in range(len(table.header)))
    lines = [" & ".join(map(say, table.header))]
    lines += [" & ".join(f"\\textbf{{{say(c.text)}}}" if c.strong else say(c.text) for c in row) for row in table.rows]
    body = "\n".join(f"{{}}{line} \\\\" + ("\n\\midrule" if i == 0 else "") for i, line in enumerate(lines))
    return (
        "\\begin{table}[htbp]\n\\centering\\footnotesize\\setlength{\\tabcolsep}{3pt}\n"
        f"\\caption{{{say(table.title)}.{' ' + say(table.note) if table.note else ''}}}\n"
        f"\\begin{{tabular}}{{{sides}}}\n\\toprule\n{body}\n\\bottomrule\n\\end{{tabular}}\n\\end{{table}}\n"
    )


def _side(table: Table, column: int) -> str:
    if table.numeric(column):
        return "r"
    widest = max((len(row[column].text) for row in table.rows), default=0)
    return "p{.3\\linewidth}" if widest > 40 and len(table.header) <= 5 else "l"
