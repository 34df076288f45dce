"""Which cells a study has: the designs that choose among the combinations of levels.

Nothing here knows what a level stands for; names are resolved later, and torch is not imported.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import combinations, islice, product

import attrs

from core.errors import UserError
from core.names import near
from core.study.axes import Axis, Level

DESIGNS = "full", "ofat", "twoway", "fraction", "list"
MOST = 20_000
"""cells of a design; nobody runs more, and a product of many axes must not fill the memory before somebody says so"""


NOTHING = (
    "nothing varies: give at least one parameter two values, --attention linear,gated_headwise, or [axes] in a study "
    "file"
)
Cell = tuple[Level, ...]
"""a level of each axis, in the order of the axes"""


@attrs.frozen(kw_only=True)
class Grid:
    """Cells of a design, the baseline first, and those that were left out, each with its reason."""

    axes: tuple[Axis, ...]
    baseline: Cell
    cells: tuple[Cell, ...]
    excluded: tuple[tuple[Cell, str], ...] = ()

    def name(self, cell: Cell) -> str:
        """`attention=linear ffn=dense`."""
        return label(self.axes, cell)


def label(axes: Sequence[Axis], cell: Cell) -> str:
    """A cell in words."""
    return " ".join(f"{axis.key}={level.label}" for axis, level in zip(axes, cell, strict=True)) or "baseline"


def lay_out(
    axes: Sequence[Axis], baseline: Mapping[str, str], kind: str, *, cells: Iterable[Mapping[str, str]] = (),
    exclude: Iterable[tuple[Mapping[str, str], str, str]] = (), where: str = "--design",
) -> Grid:  # fmt: skip
    """The cells of a design.

    Args:
        axes: what is varied, in any order; cells do not depend on it.
        baseline: axis -> label of the level that contrasts refer to.
        kind: `full`, `ofat` (one factor at a time from the baseline), `twoway` (the baseline, and all pairs of axes
            varied around it), `fraction:E=ABCD` (a regular fraction of a two-level design, letters for axes in
            alphabetical order), `list` (the cells given).
        cells: of `list`, each axis -> label; an axis that is left out has the baseline's level.
        exclude: (axis -> label, reason, where it was written); a cell that matches all of these is left out.
        where: what an error names.

    Raises:
        UserError: an unknown design, level or axis, an exclusion without a reason or of the baseline, or of nothing.
    """
    if not axes:
        raise UserError(NOTHING)
    axes = tuple(sorted(axes, key=lambda axis: axis.key))
    start = tuple(axis.level(baseline[axis.key], "the baseline") for axis in axes)
    chosen = list(islice(_chosen(axes, start, kind, cells, where), MOST + 1))
    if len(chosen) > MOST:
        raise UserError(
            f"{where}: the design {kind} of these axes has more than {MOST:,} cells; take fewer levels, or a smaller "
            "design: ofat, twoway, fraction or list"
        )
    kept, out = _without(axes, start, list(dict.fromkeys([start, *chosen])), exclude)
    if len(kept) < 2:
        raise UserError(f"{where}: the baseline is the only cell left, so nothing would be compared; give another cell")
    return Grid(axes=axes, baseline=start, cells=tuple(kept), excluded=tuple(out))


def _chosen(axes: tuple[Axis, ...], start: Cell, kind: str, cells: Iterable[Mapping[str, str]],
            where: str) -> Iterator[Cell]:  # fmt: skip
    head, _, argument = kind.partition(":")
    if head not in DESIGNS:
        raise UserError(f"{where}: no design is called {head!r}.{near(head, DESIGNS)} Designs: {', '.join(DESIGNS)}")
    if argument and head != "fraction":
        raise UserError(f"{where}: the design {head} takes nothing behind a colon, got {argument!r}")
    given = [*cells]
    if given and head != "list":
        raise UserError(
            f'[[design.cells]] are for the design `list`, and this one is {head} ({where}). Say kind = "list" under '
            "[design], or drop the cells"
        )
    if head == "list":
        if not given:
            raise UserError(f"{where}: the design `list` needs cells: [[design.cells]] tables in the study file")
        return iter(_sorted(axes, start, [_given(axes, start, cell, where) for cell in given]))
    if head == "fraction":
        return _fraction(axes, start, argument, where)
    return _SPAN[head](axes, start)


def _full(axes: tuple[Axis, ...], start: Cell) -> Iterator[Cell]:
    return product(*(ordered(axis, level) for axis, level in zip(axes, start, strict=True)))


def ordered(axis: Axis, first: Level) -> list[Level]:
    """Levels with `first` in front, the others by label: the order of a user's list changes nothing."""
    return [first, *sorted((other for other in axis.levels if other != first), key=lambda one: one.label)]


def _sorted(axes: tuple[Axis, ...], start: Cell, cells: list[Cell]) -> list[Cell]:
    """Cells in the order in which the full design has them."""
    places = [
        {level: i for i, level in enumerate(ordered(axis, first))} for axis, first in zip(axes, start, strict=True)
    ]
    return sorted(cells, key=lambda cell: [at[level] for at, level in zip(places, cell, strict=True)])


def _around(many: int) -> Callable[[tuple[Axis, ...], Cell], Iterator[Cell]]:
    """Cells that differ from the baseline in at most so many axes."""

    def cells(axes: tuple[Axis, ...], start: Cell) -> Iterator[Cell]:
        yield start
        for count in range(1, many + 1):
            for places in combinations(range(len(axes)), count):
                for levels in product(*(ordered(axes[i], start[i])[1:] for i in places)):
                    cell = list(start)
                    for place, level in zip(places, levels, strict=True):
                        cell[place] = level
                    yield tuple(cell)

    return cells


_SPAN: dict[str, Callable[[tuple[Axis, ...], Cell], Iterator[Cell]]] = {
    "full": _full, "ofat": _around(1), "twoway": _around(2),
}  # fmt: skip


def _fraction(axes: tuple[Axis, ...], start: Cell, text: str, where: str) -> Iterator[Cell]:
    """Cells of a regular two-level fraction; the baseline's levels are its minus signs, so that it is a cell."""
    letters, generators = generators_of(axes, text, where)
    free = [letter for letter in letters if letter not in generators]
    for signs in product((-1, 1), repeat=len(free)):
        at = dict(zip(free, signs, strict=True))
        for letter, word in generators.items():
            # For an even word the product of minus signs is plus; turned, so that all-minus stays a cell.
            at[letter] = -1 if len(word) % 2 == 0 else 1
            for factor in word:
                at[letter] *= at[factor]
        yield tuple(
            ordered(axis, level)[at[letter] > 0] for axis, level, letter in zip(axes, start, letters, strict=True)
        )


def generators_of(axes: Sequence[Axis], text: str, where: str) -> tuple[list[str], dict[str, str]]:
    """Letters of the axes, and what each generated letter is the product of: `E=ABCD` -> `{"E": "ABCD"}`.

    Raises:
        UserError: axes of more than two levels, no generator, or one that makes no sense.
    """
    letters = [chr(ord("A") + i) for i in range(len(axes))]
    key = ", ".join(f"{letter} is {axis.key}" for letter, axis in zip(letters, axes, strict=True))
    many = [axis.key for axis in axes if len(axis.levels) != 2]
    if many:
        raise UserError(f"{where}: a fraction is of axes with two levels, and {', '.join(many)} has another number")
    generators: dict[str, str] = {}
    for part in filter(None, (piece.strip() for piece in re.split(r"[ ,;]+", text))):
        left, equals, right = part.partition("=")
        if not equals or left not in letters or left in generators or len(right) < 2 or len(set(right)) < len(right):
            raise UserError(f"{where}: {part!r} is no generator; write E=ABCD, where {key}")
        generators[left] = right
    if not generators:
        raise UserError(f"{where}: a fraction needs its generators, fraction:E=ABCD, where {key}")
    wrong = [f"{k}={v}" for k, v in generators.items() if any(c not in letters or c in generators for c in v)]
    if wrong:
        raise UserError(f"{where}: {wrong[0]} names an axis that is not free; free letters are the others, and {key}")
    return letters, generators


def _given(axes: tuple[Axis, ...], start: Cell, said: Mapping[str, str], where: str) -> Cell:
    _known(axes, said, where)
    return tuple(
        axis.level(said[axis.key], where) if axis.key in said else level
        for axis, level in zip(axes, start, strict=True)
    )


def _known(axes: Sequence[Axis], said: Mapping[str, str], where: str) -> None:
    keys = [axis.key for axis in axes]
    for key in said:
        if key not in keys:
            raise UserError(f"{where}: no axis is called {key!r}.{near(key, keys)} Axes: {', '.join(keys)}")


def _without(
    axes: tuple[Axis, ...], start: Cell, cells: list[Cell],
    exclude: Iterable[tuple[Mapping[str, str], str, str]],
) -> tuple[list[Cell], list[tuple[Cell, str]]]:  # fmt: skip
    reasons: dict[Cell, set[str]] = {}
    for said, why, where in exclude:
        _known(axes, said, where)
        wanted = {axis.key: axis.level(said[axis.key], where) for axis in axes if axis.key in said}
        if not wanted:
            raise UserError(f"{where}: an exclusion names at least one level, attention=linear")
        if not why.strip():
            raise UserError(f"{where}: an exclusion needs its reason (why = ...), which the report prints")
        matched = [
            cell for cell in cells
            if all(level == wanted.get(axis.key, level) for axis, level in zip(axes, cell, strict=True))
        ]  # fmt: skip
        if not matched:
            raise UserError(f"{where}: no cell of the design matches {' '.join(f'{k}={v}' for k, v in said.items())}")
        if start in matched:
            raise UserError(f"{where}: this excludes the baseline ({label(axes, start)}), which all contrasts refer to")
        for cell in matched:
            reasons.setdefault(cell, set()).add(why.strip())
    out = [(cell, "; ".join(sorted(reasons[cell]))) for cell in cells if cell in reasons]
    return [cell for cell in cells if cell not in reasons], out
