"""One self-contained HTML page: no network, readable on a phone, printable, safe whatever the texts hold."""

from __future__ import annotations

import base64
import html
import math
from collections.abc import Sequence
from pathlib import Path

import attrs

from core.files import write_atomic
from core.kinds.system import Score

MODEL, CEILING = "model", "ceiling"

STYLE = """
:root { color-scheme: light dark; --ink: #1c1e21; --soft: #5b6168; --line: #d9dde1; --paper: #fff; --wash: #f4f6f8; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e7e9ec; --soft: #a3a9b0; --line: #3a4047; --paper: #16181b; --wash: #22262b; }
}
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 0 auto; padding: 1rem;
  max-width: 960px; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: .5rem 0 0; } h2 { font-size: 1.15rem; margin: 2rem 0 .3rem; }
p { margin: .4rem 0; } .soft { color: var(--soft); }
.verdict { border-left: 4px solid #0072b2; background: var(--wash); padding: .4rem .8rem; margin: .5rem 0; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem; }
th, td { padding: .3rem .6rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; } tr.own td { background: var(--wash); }
figure { margin: 1.2rem 0; } figure img { width: 100%; height: auto; background: #fff; border-radius: 4px; }
figcaption { color: var(--soft); font-size: .9rem; }
pre { background: var(--wash); padding: .7rem; overflow-x: auto; font-size: .78rem; line-height: 1.4; }
details summary { cursor: pointer; font-weight: 600; margin-top: 1rem; }
@media print { body { max-width: none; } figure, tr { break-inside: avoid; } details { display: block; } }
"""


@attrs.frozen(kw_only=True)
class Table:
    """Cells as texts; the first column names the row."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""
    bold: frozenset[tuple[int, int]] = frozenset()
    """(row, column) of cells that stand out"""
    own: frozenset[int] = frozenset()
    """rows of the model itself"""


@attrs.frozen(kw_only=True)
class Figure:
    """A picture as SVG text."""

    title: str
    caption: str
    svg: str


@attrs.frozen(kw_only=True)
class Text:
    """A block of preformatted text, folded until it is opened."""

    title: str
    text: str


@attrs.frozen(kw_only=True)
class Page:
    """What a report says, in order."""

    title: str
    subtitle: str
    verdicts: tuple[str, ...]
    notes: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    figures: tuple[Figure, ...] = ()
    texts: tuple[Text, ...] = ()


def write_page(path: Path, page: Page) -> None:
    """Write the page atomically.

    Raises:
        OSError: the folder cannot be written.
    """
    write_atomic(path, render(page))


def render(page: Page) -> str:
    """The page as HTML. Every text is escaped; pictures are images, so that nothing inside them can run."""
    say = html.escape
    body = [f"<h1>{say(page.title)}</h1>", f'<p class="soft">{say(page.subtitle)}</p>']
    body += [f'<p class="verdict">{say(text)}</p>' for text in page.verdicts]
    body += [_table(table) for table in page.tables]
    body += [f'<p class="soft">{say(text)}</p>' for text in page.notes]
    for figure in page.figures:
        data = base64.b64encode(figure.svg.encode()).decode()
        body.append(
            f"<h2>{say(figure.title)}</h2><figure>"
            f'<img alt="{say(figure.title)}" src="data:image/svg+xml;base64,{data}">'
            f"<figcaption>{say(figure.caption)}</figcaption></figure>"
        )
    body += [f"<details><summary>{say(t.title)}</summary><pre>{say(t.text)}</pre></details>" for t in page.texts]
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{say(page.title)}</title>'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{STYLE}</style></head>\n<body>\n" + "\n".join(body) + "\n</body></html>\n"
    )


def score_tables(scores: Sequence[Score]) -> list[Table]:
    """One table a task: arms down, metrics across; the best value of a column that is no ceiling stands out."""
    return [_score_table(task, [s for s in scores if s.task == task]) for task in dict.fromkeys(s.task for s in scores)]


def best_values(scores: Sequence[Score]) -> dict[str, float]:
    """The best finite value of each metric over all arms but the ceiling."""
    best: dict[str, float] = {}
    for s in scores:
        if s.arm != CEILING and math.isfinite(s.value):
            choose = max if s.higher else min
            best[s.metric] = choose(best.get(s.metric, s.value), s.value)
    return best


def verdicts(scores: Sequence[Score]) -> tuple[str, ...]:
    """A sentence a task: what the model beats, and what is better than the model, with both numbers."""
    return tuple(_verdict(task, [s for s in scores if s.task == task]) for task in dict.fromkeys(s.task for s in scores))


def _verdict(task: str, scores: list[Score]) -> str:
    own = {s.metric: s for s in scores if s.arm == MODEL}
    rivals = [a for a in dict.fromkeys(s.arm for s in scores) if not a.startswith(MODEL) and a != CEILING]
    beaten, ahead = [], []
    for arm in rivals:
        theirs = [s for s in scores if s.arm == arm and s.metric in own]
        lost = [s for s in theirs if _better(s, own[s.metric])]
        won = sum(_better(own[s.metric], s) for s in theirs)
        beaten.append(f"{arm} on {won} of {len(theirs)}")
        if lost:
            named = ", ".join(f"{s.metric} ({s.value:.3f} against {own[s.metric].value:.3f})" for s in lost)
            ahead.append(f"{arm} is better on {named}")
    tail = "; ".join(ahead) if ahead else "no baseline is better on any metric"
    return f"{task.capitalize()}: the model beats {', '.join(beaten)} metrics. {tail[0].upper()}{tail[1:]}."


def _better(a: Score, b: Score) -> bool:
    if not math.isfinite(b.value):
        return math.isfinite(a.value)
    return a.value > b.value if a.higher else a.value < b.value


def _score_table(task: str, scores: list[Score]) -> Table:
    metrics = {s.metric: s for s in scores}
    best = best_values(scores)
    cells = {(s.arm, s.metric): s.value for s in scores}
    arms = list(dict.fromkeys(s.arm for s in scores))
    rows = tuple((arm, *(number(cells.get((arm, m), math.nan)) for m in metrics)) for arm in arms)
    bold = {(i, j + 1) for i, arm in enumerate(arms) for j, m in enumerate(metrics) if cells.get((arm, m)) == best.get(m)}
    return Table(
        title=task[0].upper() + task[1:],
        note="; ".join(f"{m}: {s.label}, {'higher' if s.higher else 'lower'} is better" for m, s in metrics.items()),
        header=("", *(f"{m} {'↑' if s.higher else '↓'}" for m, s in metrics.items())),
        rows=rows,
        bold=frozenset(c for c in bold if arms[c[0]] != CEILING),
        own=frozenset(i for i, arm in enumerate(arms) if arm.startswith(MODEL)),
    )


def number(value: float) -> str:
    """Three decimals, or a dash where there is no number."""
    return f"{value:.3f}" if math.isfinite(value) else "–"


def _table(table: Table) -> str:
    say = html.escape
    head = "".join(f"<th>{say(h)}</th>" for h in table.header)
    rows = []
    for i, row in enumerate(table.rows):
        cells = "".join(
            f"<td><b>{say(c)}</b></td>" if (i, j) in table.bold else f"<td>{say(c)}</td>" for j, c in enumerate(row)
        )
        rows.append(f'<tr class="own">{cells}</tr>' if i in table.own else f"<tr>{cells}</tr>")
    note = f'<p class="soft">{say(table.note)}</p>' if table.note else ""
    body = "".join(rows)
    return f'<h2>{say(table.title)}</h2><div class="wide"><table><thead><tr>{head}</tr></thead>{body}</table></div>{note}'
