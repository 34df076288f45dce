"""A drawing board: one panel of a figure as SVG text, drawn to be read at the width of a phone.

Colours and fonts are classes of the page's style sheet, so that a figure follows the reader's light or dark mode.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence

import attrs

from core.study.report.words import clean

WIDTH = 360.0
"""of every panel, in the units of its own picture; a phone shows it at about that many pixels"""
LETTER = 6.6
"""mean width of a letter of the small text"""
SMALL = 5.6
"""the same of the names of axes, which are smaller"""
NAME = 40
"""letters on a line of an axis's name"""
NEXT = 12.0
"""from one line of such a name to the next"""
COLOURS = 8
SHAPES: tuple[tuple[tuple[float, float], ...], ...] = (
    (),
    ((-1, -1), (1, -1), (1, 1), (-1, 1)),
    ((0, -1.2), (1.1, 0.9), (-1.1, 0.9)),
    ((0, -1.3), (1.3, 0), (0, 1.3), (-1.3, 0)),
    ((0, 1.2), (1.1, -0.9), (-1.1, -0.9)),
)
"""corners of marks around their middle: circle (none), square, triangle, diamond, triangle on its tip"""


@attrs.frozen(kw_only=True)
class Scale:
    """Values to places along one side, straight or by logarithm."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high = (math.log10(self.low), math.log10(self.high)) if self.log else (self.low, self.high)
        at = math.log10(value) if self.log else value
        share = 0.5 if high == low else (at - low) / (high - low)
        return self.start + min(1.0, max(0.0, share)) * (self.end - self.start)

    def ticks(self, most: int = 5) -> list[float]:
        """Round numbers within the scale."""
        if self.log:
            powers = range(math.floor(math.log10(self.low)) - 1, math.ceil(math.log10(self.high)) + 1)
            for steps in ((1, 2, 5), (1, 3), (1,)):
                found = [m * 10.0**p for p in powers for m in steps if self.low <= m * 10.0**p <= self.high]
                if 2 <= len(found) <= most:
                    return found
            if len(found) > most:
                return found[:: math.ceil(len(found) / most)]
        step = nice((self.high - self.low) / most)
        first = math.ceil(self.low / step - 1e-9)
        found = [round(i * step, 12 - math.floor(math.log10(step))) for i in range(first, first + 4 * most)]
        return [t for t in found if self.low - step * 1e-9 <= t <= self.high + step * 1e-9]


def nice(step: float) -> float:
    """The least of 1, 2, 2.5, 5 times a power of ten that is not below `step`."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= step * (1 - 1e-9))


def scale(values: Sequence[float], start: float, end: float, *, log: bool = False, pad: float = 0.06) -> Scale:
    """A scale that holds all values with some room; values that are all one get room around it."""
    low, high = min(values), max(values)
    if log:
        low, high = math.log10(low), math.log10(high)
    room = pad * (high - low)
    if high - low <= 1e-12 * max(abs(low), abs(high)):
        room = 0.15 if log else 0.05 * abs(high) or 1.0
    low, high = low - room, high + room
    return Scale(low=10**low if log else low, high=10**high if log else high, start=start, end=end, log=log)


def tick_text(value: float, ticks: Sequence[float]) -> str:
    """As many digits as tell the ticks apart: 0.25, 12,500, 2e+07, the same number of decimals where that is enough."""
    size = max(map(abs, ticks))
    text = f"{value:.15g}"
    for form in (*(f",.{n}f" for n in range(7)), *(f".{n}g" for n in range(1, 15))):
        plain = form.endswith("f")
        if plain and not 1e-3 <= size < 1e7:
            continue
        exact = all(
            abs(float(format(t, form).replace(",", "")) - t) <= 1e-9 * (size if plain else abs(t)) for t in ticks
        )
        if exact and len({format(t, form) for t in ticks}) == len(ticks):
            text = format(value, form)
            break
    return text.replace("-", "−") if value else "0"


def fold(text: str, letters: int, lines: int = 2) -> list[str]:
    """`text` on so many lines of so many letters, broken at blanks, plus signs and underscores; `…` where it is cut."""
    out: list[str] = []
    rest = clean(text)
    while rest and len(out) < lines:
        if len(rest) <= letters:
            out.append(rest)
            return out
        if len(out) == lines - 1:
            break
        cut = max(rest.rfind(" ", 1, letters + 1), rest.rfind("_", 1, letters) + 1, rest.rfind("=", 1, letters) + 1)
        cut = cut if cut > letters // 3 else letters
        out.append(rest[:cut].rstrip())
        rest = rest[cut:].lstrip()
    return [*out, rest[: letters - 1].rstrip() + "…"] if rest else out


@attrs.define
class Board:
    """Marks in the order in which they are drawn."""

    name: str
    """unique in the page; made by us, never from data"""
    title: str
    about: str
    height: float
    width: float = WIDTH
    marks: list[str] = attrs.field(factory=list)

    def line(self, x1: float, y1: float, x2: float, y2: float, kind: str) -> None:
        self.marks.append(f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{kind}"/>')

    def path(self, points: Sequence[tuple[float, float]], kind: str, *, closed: bool = False) -> None:
        where = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        self.marks.append(f'<{"polygon" if closed else "polyline"} points="{where}" class="{kind}"/>')

    def box(self, x: float, y: float, width: float, height: float, kind: str) -> None:
        self.marks.append(f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" class="{kind}"/>')

    def dot(self, x: float, y: float, radius: float, kind: str, tip: str = "") -> None:
        inside = f"<title>{html.escape(clean(tip))}</title>" if tip else ""
        self.marks.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:g}" class="{kind}">{inside}</circle>')

    def shape(self, x: float, y: float, size: float, which: int, kind: str, tip: str = "") -> None:
        """A mark of `SHAPES`, told from the others without colour."""
        corners = SHAPES[which % len(SHAPES)]
        if corners:
            self.path([(x + size * dx, y + size * dy) for dx, dy in corners], kind, closed=True)
        else:
            self.dot(x, y, size, kind, tip)

    def text(self, x: float, y: float, text: str, kind: str = "", anchor: str = "start") -> None:
        named = f' class="{kind}"' if kind else ""
        inside = html.escape(clean(text))
        self.marks.append(f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{named}>{inside}</text>')

    def axis_x(self, x: Scale, top: float, bottom: float, label: str, texts: Sequence[str] | None = None,
               ticks: Sequence[float] | None = None) -> float:  # fmt: skip
        """Grid lines, tick labels below and the name of the axis, on two lines where it is long; returns by how much
        the second line made the board higher."""
        ticks = x.ticks() if ticks is None else ticks
        for i, t in enumerate(ticks):
            self.line(x(t), top, x(t), bottom, "grid")
            self.text(x(t), bottom + 13, texts[i] if texts else tick_text(t, ticks), "tick", "middle")
        lines = fold(label, NAME, 2)
        middle = min((x.start + x.end) / 2, self.width - 8 - SMALL / 2 * max(map(len, lines), default=0))
        for i, text in enumerate(lines):
            self.text(middle, bottom + 28 + NEXT * i, text, "name", "middle")
        more = NEXT * max(0, len(lines) - 1)
        self.height += more
        return more

    def axis_y(self, y: Scale, left: float, right: float, label: str) -> None:
        """Grid lines and tick labels; the name of the axis stands above it, level, so that it can be read. There is
        room for its second line where the axis begins 30 below the edge."""
        ticks = y.ticks()
        for t in ticks:
            self.line(left, y(t), right, y(t), "grid")
            self.text(left - 5, y(t) + 3.5, tick_text(t, ticks), "tick", "end")
        lines = fold(label, 54, 2)
        for i, text in enumerate(lines):
            self.text(4, min(y.start, y.end) - 9 - NEXT * (len(lines) - 1 - i), text, "name")

    def legend(self, names: Sequence[str], top: float, left: float = 8) -> float:
        """Marks with their names, in rows; returns where they end."""
        x, y = left, top
        for i, name in enumerate(names):
            text = fold(name, 44, 1)[0]
            size = 20 + LETTER * len(text)
            if x > left and x + size > self.width - 4:
                x, y = left, y + 16
            self.shape(x + 5, y - 4, 4, i, f"mark c{i % COLOURS}")
            self.text(x + 14, y, text, "tick")
            x += size + 4
        return y

    def svg(self) -> str:
        """The panel, named for readers who cannot see it."""
        title, about = (html.escape(clean(text)) for text in (self.title, self.about))
        return (
            f'<svg viewBox="0 0 {self.width:g} {self.height:g}" role="img" '
            f'aria-labelledby="{self.name}-t {self.name}-d"><title id="{self.name}-t">{title}</title>'
            f'<desc id="{self.name}-d">{about}</desc>{"".join(self.marks)}</svg>'
        )
