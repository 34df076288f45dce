"""The report as one HTML file: no network, safe whatever the names hold, a plain page where scripts are off."""

from __future__ import annotations

import base64
import hashlib
import html
import itertools
import re
from functools import cache
from importlib.resources import files

from core.study.report.blocks import Block, Boxes, Document, Folded, Items, Picture, Say, Section, Table
from core.study.report.words import SIGNS

FEW = 5
"""columns that a phone shows as a table; of more, each row becomes a card that names its cells"""


def render(document: Document) -> str:
    """The page. Its policy lets a browser run the one script and the one style that it brings, and load nothing.

    All texts are escaped. Panels of pictures stand in the page as they are: `svg.Board` has escaped what they hold.
    """
    links = "".join(f'<a href="#{_anchor(s)}">{_say(s.title)}</a>' for s in document.sections)
    parts = [f"<h1>{_say(document.title)}</h1>", f'<p class="soft">{_say(document.subtitle)}</p>']
    if document.missing:
        told = " ".join(_say(text[:1].upper() + text[1:]) + "." for text in document.missing)
        parts.append(
            f'<div class="missing" role="note"><strong>INCOMPLETE.</strong> {told} All below is preliminary.</div>'
        )
    parts.append(f'<div class="answer">{"".join(f"<p>{_say(text)}</p>" for text in document.answer)}</div>')
    parts.append(f'<nav aria-label="Parts of this report">{links}</nav>')
    parts += [_section(section) for section in document.sections]
    style, script = asset("page.css"), asset("page.js")
    policy = (
        f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{_say(document.title)}</title>'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{style}</style></head>\n<body>\n<main>\n" + "\n".join(parts) + f"\n</main>\n<script>{script}</script>"
        "</body></html>\n"
    )


@cache
def asset(name: str) -> str:
    """Text of a file that lies beside this module."""
    return files("core.study.report").joinpath(name).read_text("utf-8")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _section(section: Section) -> str:
    blocks: list[str] = []
    for pictures, run in itertools.groupby(section.blocks, lambda block: isinstance(block, Picture)):
        inside = "\n".join(map(_block, run))
        blocks.append(f'<div class="figures">{inside}</div>' if pictures else inside)
    return f'<section><h2 id="{_anchor(section)}">{_say(section.title)}</h2>\n' + "\n".join(blocks) + "</section>"


def _block(block: Block) -> str:
    if isinstance(block, Table):
        return _table(block)
    if isinstance(block, Boxes):
        return _boxes(block)
    if isinstance(block, Say):
        return f'<p class="soft">{_say(block.text)}</p>' if block.soft else f"<p>{_say(block.text)}</p>"
    if isinstance(block, Items):
        items = "".join(f"<li>{_say(item)}</li>" for item in block.items)
        return f'<h3>{_say(block.title)}</h3><ul class="items">{items}</ul>'
    if isinstance(block, Folded):
        entries = "".join(
            (f"<dt>{_say(name)}</dt>" if name else "") + f"<dd><code>{_say(line)}</code></dd>"
            for name, line in block.entries
        )
        return f"<details><summary>{_say(block.title)}</summary><dl>{entries}</dl></details>"
    return _picture(block)


def _boxes(block: Boxes) -> str:
    items = []
    for box in block.boxes:
        size = f'<span class="size">{_say(box.size)}</span>' if box.size else ""
        items.append(
            f'<li class="{_kind(box.word)}"><div class="name">{_say(box.name)}</div>'
            f'<div class="word"><span aria-hidden="true">{SIGNS[box.word]}</span> {_say(box.word)}{size}</div>'
            f'<p class="note">{_say(box.why)}</p>'
            + (f'<p class="note">{_say(box.facts)}</p>' if box.facts else "")
            + "</li>"
        )
    return f'<h3>{_say(block.title)}</h3><ul class="boxes">{"".join(items)}</ul>'


def _table(table: Table) -> str:
    sides = [' class="number"' if table.numeric(j) else "" for j in range(len(table.header))]
    head = "".join(f'<th scope="col"{side}>{_say(text)}</th>' for side, text in zip(sides, table.header, strict=True))
    cards = len(table.header) > FEW
    rows = []
    for i, row in enumerate(table.rows):
        cells = []
        for j, cell in enumerate(row):
            text = f"<b>{_say(cell.text)}</b>" if cell.strong else _name(cell.text) if j == 0 else _say(cell.text)
            value = "" if cell.sort is None else f' data-v="{cell.sort!r}"'
            said = f' data-label="{_say(table.header[j])}"' if cards and table.header[j] else ""
            cells.append(f"<td{sides[j]}{value}{said}>{text}</td>" if j else f'<th scope="row"{value}>{text}</th>')
        kind = ' class="own"' if i in table.own else ' class="apart"' if i in table.apart else ""
        rows.append(f"<tr{kind}>{''.join(cells)}</tr>")
    note = f'<p class="note">{_say(table.note)}</p>' if table.note else ""
    kinds = [*(["browse"] if table.browse and len(table.rows) > 1 else []), *(["cards"] if cards else [])]
    named = f' class="{" ".join(kinds)}"' if kinds else ""
    return (
        f'<h3>{_say(table.title)}</h3><div class="wide" tabindex="0" role="region" aria-label="{_say(table.title)}">'
        f"<table{named}><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>{note}"
    )


def _picture(picture: Picture) -> str:
    many = len(picture.panels) > 1
    panels = f'<div class="panels">{"".join(picture.panels)}</div>' if many else picture.panels[0]
    key = f'<ol class="key">{"".join(f"<li>{_say(name)}</li>" for name in picture.key)}</ol>' if picture.key else ""
    kind = ' class="many"' if many else ""
    return (
        f"<figure{kind}><h3>{_say(picture.title)}</h3>{panels}{key}"
        f"<figcaption>{_say(picture.caption)}</figcaption></figure>"
    )


def _kind(word: str) -> str:
    return word.replace(" ", "-")


def _anchor(section: Section) -> str:
    return section.title.lower().replace(" ", "-")


def _say(text: str) -> str:
    return html.escape(text)


def _name(text: str) -> str:
    """A name that may go on in the next line after an underscore, rather than anywhere."""
    return "<wbr>".join(_say(part) for part in re.split(r"(?<=_)(?=\w)", text))
