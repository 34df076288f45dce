"""Which cells a study has: axes of levels, and the designs that choose among their combinations.

Nothing here knows what a level stands for; names are resolved later, and torch is not imported.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import combinations, product
from typing import Any

import attrs

from core.errors import UserError
from core.names import near, nearest

DESIGNS = "full", "ofat", "twoway", "fraction", "list"


@attrs.frozen
class Level:
    """One value of an axis."""

    label: str
    entries: Mapping[str, Any] = attrs.field(eq=False)
    """flat dotted keys -> values: `{"ffn": "moe", "ffn.experts": 4}`"""


@attrs.frozen
class Axis:
    """One thing that is varied: a slot or a parameter."""

    key: str
    levels: tuple[Level, ...]
    origin: str

    def level(self, label: str, where: str) -> Level:
        """The level of this label.

        Raises:
            UserError: there is none.
        """
        found = next((level for level in self.levels if level.label == label), None)
        if found is None:
            labels = [level.label for level in self.levels]
            raise UserError(
                f"{where}: {self.key} has no level {label!r}.{near(label, labels)} Its levels: {', '.join(labels)}"
            )
        return found


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


def make_axis(key: str, values: Sequence[Any], origin: str) -> Axis:
    """An axis from what a user wrote for it.

    Args:
        key: a dotted key, `attention`, `ffn.ratio`.
        values: each a value, or a table `{name = "moe", experts = 4, as = "moe4x2"}`, `{value = 0.001, as = "slow"}`.
        origin: where it was written.

    Raises:
        UserError: no value, a level twice, or a table without a name.
    """
    levels = tuple(_level(key, value, origin) for value in values)
    if not levels:
        raise UserError(f"{origin}: the axis {key} has no values; give two or more, with commas between")
    labels = [level.label for level in levels]
    twice = next((one for one in labels if labels.count(one) > 1), None)
    if twice is not None:
        raise UserError(f"{origin}: the axis {key} has {twice!r} twice; keep one")
    return Axis(key, levels, origin)


def _level(key: str, value: Any, origin: str) -> Level:
    if not isinstance(value, Mapping):
        return Level(_spell(value), {key: value})
    rest = dict(value)
    said = rest.pop("as", None)
    if {*rest} == {"value"} and said:
        return Level(str(said), {key: rest["value"]})
    name = rest.pop("name", None)
    if name is None or not isinstance(name, str):
        raise UserError(f'{origin}: a level of {key} that is a table needs a name: {{ name = "moe", experts = 4 }}')
    if said is not None and not isinstance(said, str):
        raise UserError(f"{origin}: `as` of a level of {key} is a text, got {said!r}")
    inner = {f"{key}.{k}": v for k, v in _flat(rest).items()}
    args = ", ".join(f"{k.removeprefix(key + '.')}={_spell(v)}" for k, v in inner.items())
    return Level(said or (f"{name}({args})" if args else name), {key: name, **inner})


def _flat(table: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in table.items():
        at = f"{path}.{key}" if path else key
        flat |= _flat(value, at) if isinstance(value, Mapping) else {at: value}
    return flat


def _spell(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(map(_spell, value)) + "]"
    return str(value)


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
    axes = tuple(sorted(axes, key=lambda axis: axis.key))
    start = tuple(axis.level(baseline[axis.key], "the baseline") for axis in axes)
    head, _, argument = kind.partition(":")
    if head not in DESIGNS:
        raise UserError(f"{where}: no design is called {head!r}.{near(head, DESIGNS)} Designs: {', '.join(DESIGNS)}")
    if argument and head != "fraction":
        raise UserError(f"{where}: the design {head} takes nothing behind a colon, got {argument!r}")
    if head == "list":
        chosen = [_given(axes, start, cell, where) for cell in cells]
        if not chosen:
            raise UserError(f"{where}: the design `list` needs cells: [[design.cells]] tables in the study file")
    elif head == "fraction":
        chosen = _fraction(axes, start, argument, where)
    else:
        chosen = _SPAN[head](axes, start)
    kept, out = _without(axes, start, list(dict.fromkeys([start, *chosen])), exclude)
    return Grid(axes=axes, baseline=start, cells=tuple(kept), excluded=tuple(out))


def _full(axes: tuple[Axis, ...], start: Cell) -> list[Cell]:
    return list(product(*(_first(axis, level) for axis, level in zip(axes, start, strict=True))))


def _first(axis: Axis, level: Level) -> list[Level]:
    """Levels with the baseline's own in front, the others by label: the order of a user's list changes nothing."""
    return [level, *sorted((other for other in axis.levels if other != level), key=lambda one: one.label)]


def _around(many: int) -> Callable[[tuple[Axis, ...], Cell], list[Cell]]:
    """Cells that differ from the baseline in at most so many axes."""

    def cells(axes: tuple[Axis, ...], start: Cell) -> list[Cell]:
        found = [start]
        for count in range(1, many + 1):
            for places in combinations(range(len(axes)), count):
                for levels in product(*(_first(axes[i], start[i])[1:] for i in places)):
                    cell = list(start)
                    for place, level in zip(places, levels, strict=True):
                        cell[place] = level
                    found.append(tuple(cell))
        return found

    return cells


_SPAN: dict[str, Callable[[tuple[Axis, ...], Cell], list[Cell]]] = {
    "full": _full, "ofat": _around(1), "twoway": _around(2),
}  # fmt: skip


def _fraction(axes: tuple[Axis, ...], start: Cell, text: str, where: str) -> list[Cell]:
    """Cells of a regular two-level fraction; the baseline's levels are its minus signs, so that it is a cell."""
    letters, generators = generators_of(axes, text, where)
    free = [letter for letter in letters if letter not in generators]
    found = []
    for signs in product((-1, 1), repeat=len(free)):
        at = dict(zip(free, signs, strict=True))
        for letter, word in generators.items():
            # For an even word the product of minus signs is plus; turned, so that all-minus stays a cell.
            turn = -1 if len(word) % 2 == 0 else 1
            at[letter] = turn
            for factor in word:
                at[letter] *= at[factor]
        found.append(
            tuple(_first(axis, level)[at[letter] > 0] for axis, level, letter in zip(axes, start, letters, strict=True))
        )
    return found


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
            close = nearest(key, keys)
            hint = f" Did you mean {close!r}?" if close else ""
            raise UserError(f"{where}: no axis is called {key!r}.{hint} Axes: {', '.join(keys)}")


def _without(
    axes: tuple[Axis, ...], start: Cell, cells: list[Cell],
    exclude: Iterable[tuple[Mapping[str, str], str, str]],
) -> tuple[list[Cell], list[tuple[Cell, str]]]:  # fmt: skip
    reasons: dict[Cell, str] = {}
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
            reasons.setdefault(cell, why)
    return [cell for cell in cells if cell not in reasons], list(reasons.items())
