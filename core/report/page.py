"""One self-contained HTML page: no network, no script, readable on a phone, printable, safe whatever the texts hold."""

from __future__ import annotations

import base64
import html
import math
import re
from collections.abc import Sequence
from pathlib import Path

import attrs

from core.files import write_atomic
from core.kinds.system import Score
from core.score import CEILING, MODEL, is_model

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
"""what a browser may do with the page: show its pictures and its style, and nothing else"""

STYLE = """
:root { color-scheme: light dark; --ink: #1c1e21; --soft: #575d64; --line: #d9dde1; --paper: #fff; --wash: #f1f4f7;
  --mark: #0072b2; }
@media (prefers-color-scheme: dark) { :root { --ink: #e7e9ec; --soft: #a9afb6; --line: #3a4047; --paper: #16181b;
  --wash: #23282d; --mark: #56b4e9; } }
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 0 auto; padding: 1rem;
  max-width: 60rem; overflow-wrap: break-word; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: .5rem 0 .2rem; }
h2 { font-size: 1.25rem; margin: 2.2rem 0 .4rem; border-bottom: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.4rem 0 .3rem; }
p { margin: .4rem 0; max-width: 46rem; } a { color: var(--mark); }
nav a { margin-right: 1rem; } .soft { color: var(--soft); font-size: .9rem; }
.verdict { border-left: 4px solid var(--mark); background: var(--wash); padding: .5rem .9rem; margin: .6rem 0;
  max-width: none; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem; }
th, td { padding: .3rem .6rem; border-bottom: 1px solid var(--line); text-align: left; background: var(--paper); }
thead th { vertical-align: bottom; font-weight: 600; line-height: 1.25; min-width: 5.5rem; max-width: 9rem; }
th.number, td.number { text-align: right; } td { white-space: nowrap; }
tbody th { font-weight: 400; position: sticky; left: 0; min-width: 7rem; max-width: 12rem; }
tr.own > * { background: var(--wash); } tr.own > th { font-weight: 600; }
tr.apart > * { color: var(--soft); font-style: italic; border-top: 2px solid var(--line); }
figure { margin: .3rem 0 1.5rem; } figcaption { color: var(--soft); font-size: .9rem; max-width: 46rem; }
figure img { display: block; max-width: 100%; min-width: min(30rem, 180vw); height: auto; background: #fff;
  padding: .4rem; border-radius: 4px; }
@media (max-width: 34rem) { nav::after { content: "Wide tables and figures scroll sideways."; display: block;
  color: var(--soft); font-size: .9rem; } thead th { min-width: 4.5rem; } tbody th { min-width: 5.5rem; } }
summary { cursor: pointer; font-weight: 600; margin-top: .8rem; }
pre { background: var(--wash); padding: .7rem; overflow-x: auto; font-size: .78rem; line-height: 1.4; }
@media print { :root { --ink: #000; --soft: #444; --line: #bbb; --paper: #fff; --wash: #f1f4f7; --mark: #0072b2; }
  body { max-width: none; padding: 0; font-size: 11pt; } nav { display: none; } figure, tr { break-inside: avoid; }
  h2, h3 { break-after: avoid; } .wide { overflow: visible; } tbody th { position: static; }
  figure img { min-width: 0; } pre { white-space: pre-wrap; }
  details::details-content { content-visibility: visible; } }
"""

_WIDE = 8
"""columns from which on a table may not fit a desktop's page"""
_OPEN = 40
"""rows up to which a table of units is unfolded"""
_NUMBER = re.compile(r"[-+−]?\d[\d,.]*(e[-+]?\d+)?\s?%?(\s?±\s?[\d.,e+-]+)?|[–—-]?")


@attrs.frozen(kw_only=True)
class Table:
    """Cells as texts; the first column names the row. Columns of numbers are set flush right."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""
    bold: frozenset[tuple[int, int]] = frozenset()
    """(row, column) of cells that stand out"""
    own: frozenset[int] = frozenset()
    """rows of the model itself, shaded"""
    apart: frozenset[int] = frozenset()
    """rows that are no rivals, set off from the rest"""
    titled: bool = True
    """whether the title stands above it, rather than in a fold around it"""


@attrs.frozen(kw_only=True)
class Figure:
    """A picture as SVG text."""

    title: str
    caption: str
    svg: str


@attrs.frozen(kw_only=True)
class Text:
    """A block of preformatted text, folded until it is opened or printed."""

    title: str
    text: str


@attrs.frozen(kw_only=True)
class Page:
    """What a report says, in order. Parts without content are left out."""

    title: str
    subtitle: str
    verdicts: tuple[str, ...]
    notes: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    figures: tuple[Figure, ...] = ()
    units: tuple[Table, ...] = ()
    texts: tuple[Text, ...] = ()


def write_page(path: Path, page: Page) -> None:
    """Write the page atomically.

    Raises:
        OSError: the folder cannot be written; an earlier page is as it was.
    """
    # Half a surrogate pair, as a file name that is no UTF-8 gives, has no encoding: show it rather than fail.
    write_atomic(path, render(page).encode("utf-8", "backslashreplace"))


def render(page: Page) -> str:
    """The page as HTML. Every text is escaped; pictures are images, so that nothing inside them can run."""
    parts = {
        "In short": [f'<p class="verdict">{_say(text)}</p>' for text in page.verdicts],
        "Scores": [*map(_table, page.tables), *(f'<p class="soft">{_say(text)}</p>' for text in page.notes)],
        "Figures": [_figure(figure) for figure in page.figures],
        "Unit by unit": [
            f"<details{' open' * (len(t.rows) <= _OPEN)}><summary>{_say(t.title)}</summary>{_table(t)}</details>"
            for t in page.units
        ],
        "Details": [
            f"<details><summary>{_say(t.title)}</summary><pre>{_say(t.text)}</pre></details>" for t in page.texts
        ],
    }
    shown = {title: blocks for title, blocks in parts.items() if blocks}
    links = "".join(f'<a href="#{_anchor(title)}">{title}</a>' for title in shown)
    body = [f"<h1>{_say(page.title)}</h1>", f'<p class="soft">{_say(page.subtitle)}</p>', f"<nav>{links}</nav>"]
    for title, blocks in shown.items():
        body += [f'<h2 id="{_anchor(title)}">{title}</h2>', *blocks]
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{_say(page.title)}</title>'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{STYLE}</style></head>\n<body>\n" + "\n".join(body) + "\n</body></html>\n"
    )


def score_tables(scores: Sequence[Score]) -> list[Table]:
    """One table a task: the model's arms first, the ceiling last; metrics across, the best arm but the ceiling bold."""
    return [_score_table(task, chosen) for task, chosen in _by_task(scores).items()]


def best_values(scores: Sequence[Score]) -> dict[str, float]:
    """The best finite value of each metric over all arms but the ceiling."""
    best: dict[str, float] = {}
    for s in scores:
        if s.arm != CEILING and math.isfinite(s.value):
            choose = max if s.higher else min
            best[s.metric] = choose(best.get(s.metric, s.value), s.value)
    return best


_NAMED = 2
"""most metrics that a sentence names one by one"""
_CROWD = 6
"""rivals from which on the sentences tell the first metric of each, and of the others only who wins more of them"""


def verdicts(scores: Sequence[Score]) -> tuple[str, ...]:
    """A few plain sentences a task: whom the model beats, who is better at what, how far the ceiling is.

    Numbers that print alike count as equal. Arms other than `model` that are the model's own (`model, one sample`) are
    no rivals. The sentences say nothing of chance beyond the number of test units: that takes several runs.
    """
    return tuple(_verdict(task, chosen) for task, chosen in _by_task(scores).items())


def number(value: float) -> str:
    """Three decimals where they show something, else two or more digits; a dash where there is no number."""
    if not math.isfinite(value):
        return "–"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.1e}" if 0 < abs(value) < 0.0005 else f"{value:.3f}"


def _by_task(scores: Sequence[Score]) -> dict[str, list[Score]]:
    return {task: [s for s in scores if s.task == task] for task in dict.fromkeys(s.task for s in scores)}


def _better(a: Score, b: Score) -> bool:
    """Whether `a` is better than `b` by more than their printed digits hide; a number is better than none."""
    if not math.isfinite(a.value) or number(a.value) == number(b.value):
        return False
    return not math.isfinite(b.value) or (a.value > b.value if a.higher else a.value < b.value)


def _verdict(task: str, scores: list[Score]) -> str:
    own = {s.metric: s for s in scores if s.arm == MODEL}
    arms = {
        arm: [s for s in scores if s.arm == arm and s.metric in own] for arm in dict.fromkeys(s.arm for s in scores)
    }
    rivals = {arm: theirs for arm, theirs in arms.items() if theirs and not is_model(arm) and arm != CEILING}
    if not own:
        return f"On '{task}' the model has no score."
    if len(rivals) >= _CROWD:
        return " ".join([_crowded(task, own, rivals), *_ceiling(own, arms.get(CEILING, [])), *_units(own)])
    beaten: dict[str, list[str]] = {}
    ahead = []
    for arm, theirs in rivals.items():
        lost = [s for s in theirs if _better(s, own[s.metric])]
        won = sum(_better(own[s.metric], s) for s in theirs)
        if won:
            beaten.setdefault(_of(won, len(theirs)), []).append(arm)
        if lost:
            # The first metrics are those that matter most, and the table has them all.
            pairs = [f"{_short(s)} ({number(s.value)} against {number(own[s.metric].value)})" for s in lost]
            few = len(lost) <= _NAMED
            what = _list(pairs) if few else f"{_of(len(lost), len(theirs))}, {pairs[0]} among them"
            ahead.append(f"{arm} is better on {what}")
        elif not won:
            ahead.append(f"{arm} is as good on {_of(len(theirs), len(theirs))}")
    wins = [f"{_list(names)} on {count}" for count, names in beaten.items()]
    if not rivals:
        said = f"the model reaches {_list([f'{number(s.value)} on {_short(s)}' for s in own.values()])}"
        sentences = [f"{said}, with no baseline to compare it with"]
    else:
        sentences = [f"the model beats {_list(wins)}" if wins else "the model beats no baseline on any metric", *ahead]
    text = f"On '{task}' {'; '.join(sentences)}."
    return " ".join([text, *_ceiling(own, arms.get(CEILING, [])), *_units(own)])


def _crowded(task: str, own: dict[str, Score], rivals: dict[str, list[Score]]) -> str:
    """Where the model stands among many rivals by the first metric, and against whom it wins more metrics than not."""
    first = next(iter(own.values()))
    theirs = {arm: s for arm, scores in rivals.items() for s in scores if s.metric == first.metric}
    places = {
        "ahead of": [arm for arm, s in theirs.items() if _better(first, s)],
        "behind": [arm for arm, s in theirs.items() if _better(s, first)],
    }
    places["level with"] = [arm for arm in theirs if arm not in places["ahead of"] + places["behind"]]
    stands = [
        f"{word} {_list([f'{arm} ({number(theirs[arm].value)})' for arm in arms])}"
        for word, arms in places.items()
        if arms
    ]
    lead = f"On '{task}' the model has {number(first.value)} on {_short(first)}: {'; '.join(stands)}."
    more = {True: [], False: []}  # type: dict[bool, list[str]]
    for arm, scores in rivals.items():
        won, lost = (sum(_better(*pair) for pair in pairs) for pairs in (
            [(own[s.metric], s) for s in scores], [(s, own[s.metric]) for s in scores]
        ))  # fmt: skip
        if won != lost:
            more[won > lost].append(arm)
    wins = [f"wins more metrics than it loses against {_list(more[True])}"] if more[True] else []
    loses = [f"loses more than it wins against {_list(more[False])}"] if more[False] else []
    return f"{lead} Of all {len(own)} metrics it {' and '.join(wins + loses)}." if wins + loses else lead


def _ceiling(own: dict[str, Score], ceiling: list[Score]) -> list[str]:
    if not ceiling:
        return []
    above = [s for s in ceiling if _better(own[s.metric], s)]
    if above:
        pairs = _list([f"{_short(s)} ({number(own[s.metric].value)} against {number(s.value)})" for s in above])
        return [
            f"It also passes the ceiling on {pairs}: possible where the ceiling is made for another score; "
            "else look for a leak."
        ]
    first = ceiling[0]
    return [f"The ceiling is {number(first.value)} on {_short(first)}, the model {number(own[first.metric].value)}."]


def _units(own: dict[str, Score]) -> list[str]:
    most = max(len(s.units) for s in own.values())
    return ["All this is from one test unit, so small differences may be chance."] if most == 1 else []


def _short(score: Score) -> str:
    """The label as it reads inside a sentence: without what stands in brackets."""
    return re.sub(r"\s*\([^)]*\)$", "", score.label) or score.label


def _of(count: int, total: int) -> str:
    return f"{count} of {total} metric{'s' * (total != 1)}"


def _list(items: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(items[:-1]), items[-1]]))


def _score_table(task: str, scores: list[Score]) -> Table:
    metrics = {s.metric: s for s in scores}
    cells = {(s.arm, s.metric): s.value for s in scores}
    arms = sorted(dict.fromkeys(s.arm for s in scores), key=lambda arm: (arm == CEILING, not is_model(arm)))
    texts = [[number(cells.get((arm, metric), math.nan)) for metric in metrics] for arm in arms]
    best = {metric: number(value) for metric, value in best_values(scores).items()}
    units = max(len(s.units) for s in scores)
    note = "↑ higher is better, ↓ lower is better. Bold: the best" + (" but the ceiling." if CEILING in arms else ".")
    return Table(
        title=task[:1].upper() + task[1:],
        note=note + (f" Means over {units} test units." if units > 1 else ""),
        header=("", *(f"{s.label}\N{NO-BREAK SPACE}{'↑' if s.higher else '↓'}" for s in metrics.values())),
        rows=tuple((arm, *row) for arm, row in zip(arms, texts, strict=True)),
        bold=frozenset(
            (i, j + 1)
            for i, arm in enumerate(arms)
            for j, metric in enumerate(metrics)
            if arm != CEILING and texts[i][j] == best.get(metric)
        ),
        own=frozenset(i for i, arm in enumerate(arms) if is_model(arm)),
        apart=frozenset(i for i, arm in enumerate(arms) if arm == CEILING),
    )


def _table(table: Table) -> str:
    numeric = {j for j in range(1, len(table.header)) if all(_NUMBER.fullmatch(row[j].strip()) for row in table.rows)}
    sides = [' class="number"' if j in numeric else "" for j in range(len(table.header))]
    head = "".join(f'<th scope="col"{side}>{_say(text)}</th>' for side, text in zip(sides, table.header, strict=True))
    rows = []
    for i, row in enumerate(table.rows):
        texts = [f"<b>{_say(text)}</b>" if (i, j) in table.bold else _say(text) for j, text in enumerate(row)]
        cells = "".join(f"<td{side}>{text}</td>" for side, text in zip(sides[1:], texts[1:], strict=True))
        kind = ' class="own"' if i in table.own else ' class="apart"' if i in table.apart else ""
        rows.append(f'<tr{kind}><th scope="row">{texts[0]}</th>{cells}</tr>')
    wide = ["The table scrolls sideways."] if len(table.header) > _WIDE else []
    said = " ".join([*filter(None, [table.note]), *wide])
    note = f'<p class="soft">{_say(said)}</p>' if said else ""
    title = f"<h3>{_say(table.title)}</h3>" if table.titled else ""
    return (
        f'{title}<div class="wide" tabindex="0"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>{note}"
    )


def _figure(figure: Figure) -> str:
    data = base64.b64encode(figure.svg.encode("utf-8", "replace")).decode()
    return (
        f'<h3>{_say(figure.title)}</h3><figure><div class="wide" tabindex="0">'
        f'<img alt="{_say(figure.title)}" src="data:image/svg+xml;base64,{data}"></div>'
        f"<figcaption>{_say(figure.caption)}</figcaption></figure>"
    )


def _anchor(title: str) -> str:
    return title.lower().replace(" ", "-")


def _say(text: str) -> str:
    return html.escape(text)
