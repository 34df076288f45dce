"""What a report is made of, whatever it is written as: texts, tables, boxes, pictures and commands in sections."""

from __future__ import annotations

import attrs


@attrs.frozen
class Cell:
    """One place of a table."""

    text: str
    sort: float | None = None
    """what rows are ordered by; None where there is no number"""
    strong: bool = False


@attrs.frozen(kw_only=True)
class Table:
    """Rows of cells; the first column names the row."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""
    own: frozenset[int] = frozenset()
    """rows that everything else is compared with, shaded"""
    apart: frozenset[int] = frozenset()
    """rows that are no rivals, set off from the rest"""
    browse: bool = False
    """many rows: a page lets its reader sort and filter them"""

    def numeric(self, column: int) -> bool:
        """Whether a column is set flush right: numbers, or dashes where there are none."""
        cells = [row[column] for row in self.rows]
        return any(c.sort is not None or c.text == "–" for c in cells) and all(
            c.sort is not None or c.text in ("", "–") for c in cells
        )


@attrs.frozen(kw_only=True)
class Say:
    """A paragraph."""

    text: str
    soft: bool = False


@attrs.frozen(kw_only=True)
class Items:
    """A list of sentences under a title."""

    title: str
    items: tuple[str, ...]


@attrs.frozen(kw_only=True)
class Box:
    """The verdict on one arm."""

    name: str
    word: str
    size: str
    """the effect with its interval"""
    why: str
    facts: str
    """p, pairs, noise"""


@attrs.frozen(kw_only=True)
class Boxes:
    """Verdicts, one a contrast."""

    title: str
    boxes: tuple[Box, ...]


@attrs.frozen(kw_only=True)
class Picture:
    """One figure of one or more panels, as SVG texts that are safe to stand in a page."""

    title: str
    caption: str
    panels: tuple[str, ...]
    key: tuple[str, ...] = ()
    """names of numbered marks, in order"""


@attrs.frozen(kw_only=True)
class Folded:
    """Texts to be copied, out of sight until they are asked for: what each is, or nothing, then the text."""

    title: str
    entries: tuple[tuple[str, str], ...]


Block = Table | Say | Items | Boxes | Picture | Folded


@attrs.frozen(kw_only=True)
class Section:
    title: str
    blocks: tuple[Block, ...]


@attrs.frozen(kw_only=True)
class Document:
    """A whole report."""

    title: str
    subtitle: str
    missing: tuple[str, ...]
    """what an unfinished study lacks; empty where it is finished"""
    answer: tuple[str, ...]
    sections: tuple[Section, ...]
