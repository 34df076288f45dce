"""Configurations of an installed piece, as a user might choose them.

@pytest.mark.parametrize("gate", [configurations("gate", "acme/swing")], ids=["swing"])
class TestSwing(GateLaws): ...
"""

from __future__ import annotations

import math
import typing
from collections.abc import Mapping
from typing import Any, Literal

import attrs
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from hypothesis.strategies import SearchStrategy

from core.choices import flatten
from core.config import resolve_part
from core.errors import UserError
from core.kinds.plugin import Plugin
from core.params import Field, fields, in_force, is_union
from core.registry import BUILTIN, Row, installed
from core.testing.draws import refuse

DEPTH = 2
"""how far below the piece the parameters of other pieces are drawn; further down they keep their defaults"""
REACH = 8
"""how far above its least value a whole number is drawn: the laws' tensors are small"""
DECADE = math.sqrt(10.0)


@st.composite
def configurations(draw: st.DrawFn, kind: str, name: str) -> Plugin:
    """Plugins that `name` may stand for: each parameter at its default or drawn, each slot filled with another piece.

    What the name says (`moe4x2`, `window(w=3)`) and what its row presets stays. Slots are filled from the built-ins and
    from the distribution that brings the piece, so that no other package decides what is found. Whatever the resolver
    or a class refuses is drawn again.

    Args:
        draw: given by Hypothesis.
        kind: of the piece.
        name: as a user would write it.

    Raises:
        UserError: no such piece, or one that does not load.
    """
    registry = installed()
    found = registry.find(kind, name)
    values: dict[str, Any] = {}
    _choose(draw, found.row, {**flatten(found.row.preset), **found.values}, "", (), values)
    try:
        return resolve_part(kind, name, values)
    except UserError as error:
        refuse(error)


def samples(strategy: SearchStrategy[Plugin], count: int, start: int = 0) -> list[Plugin]:
    """Some different plugins of a strategy, the simplest first; the same for the same `start`.

    Raises:
        Unsatisfiable: there are none.
    """
    found: list[Plugin] = []

    @seed(start)
    @settings(
        max_examples=4 * count,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=[*HealthCheck],
    )
    @given(strategy)
    def collect(plugin: Plugin) -> None:
        if plugin not in found and len(found) < count:
            found.append(plugin)

    collect()
    return found


def drawable(kind: str, name: str) -> SearchStrategy[Plugin]:
    """The configurations of a piece, of which there are some.

    Raises:
        UserError: none can be drawn; it says what the piece refuses, or which parameter must be given.
    """
    lacking = needed(kind, name)
    if lacking:
        spelt = ", ".join(f"{parameter}=..." for parameter in lacking)
        raise UserError(f"{', '.join(lacking)}: a value is needed, which cannot be drawn; say {kind} '{name}({spelt})'")
    strategy = configurations(kind, name)
    try:
        samples(strategy, 1)
    except Unsatisfiable:
        resolve_part(kind, name, {})  # tells what is wrong with the defaults, where it is they that are wrong
        raise UserError(f"{kind} {name!r}: no configuration could be drawn that it does not refuse") from None
    return strategy


def needed(kind: str, name: str) -> list[str]:
    """Parameters that a name leaves open, that have no default, and of which nothing sensible can be drawn: a file.

    Raises:
        UserError: no such piece, or one that does not load.
    """
    found = installed().find(kind, name)
    given = {**flatten(found.row.preset), **found.values}
    return [f.name for f in fields(found.row.load()) if f.required and f.name not in given and _values(f) is None]


def _choose(
    draw: st.DrawFn, row: Row, fixed: Mapping[str, Any], path: str, above: tuple[Row, ...], values: dict[str, Any]
) -> None:
    """Draw what `fixed` leaves open of a piece and of those below it, into `values` by dotted path."""
    _fields(draw, row.load(), fixed, path, (*above, row), values)


def _fields(
    draw: st.DrawFn, cls: type, fixed: Mapping[str, Any], path: str, rows: tuple[Row, ...], values: dict[str, Any]
) -> None:
    for field in fields(cls):
        if field.role == "group":
            inner = {key.partition(".")[2]: value for key, value in fixed.items() if key.startswith(f"{field.name}.")}
            _fields(draw, field.type, inner, f"{path}{field.name}.", rows, values)
        elif field.role == "slot":
            _fill(draw, field, fixed, path, rows, values)
        elif field.name not in fixed and (field.required or draw(st.booleans())):
            options = _values(field)
            if options is not None:
                values[path + field.name] = draw(options)
    here = {field.name: values[path + field.name] for field in fields(cls) if path + field.name in values}
    for name in here.keys() - in_force(cls, {**fixed, **here}).keys():
        del values[path + name]


def _fill(
    draw: st.DrawFn, field: Field, fixed: Mapping[str, Any], path: str, rows: tuple[Row, ...], values: dict[str, Any]
) -> None:
    """Draw a piece for a slot, unless it is fixed or a list, and what may be said of it."""
    if field.many or field.kind is None:
        return
    registry = installed()
    chosen = fixed.get(field.name)
    if chosen is None:
        chosen = field.default if field.default is not None or field.optional else registry.default(field.kind)
        options = _names(field, rows)
        if bool(options) and draw(st.booleans()):
            chosen = draw(st.sampled_from(options))
            values[path + field.name] = chosen
    if not isinstance(chosen, str) or len(rows) > DEPTH:
        return
    try:
        found = registry.find(field.kind, chosen)
        found.row.load()
    except UserError:  # the resolver says why
        return
    said = {key.partition(".")[2]: value for key, value in fixed.items() if key.startswith(f"{field.name}.")}
    below = {**flatten(found.row.preset), **found.values, **said}
    _choose(draw, found.row, below, f"{path}{field.name}.", rows, values)


def _names(field: Field, rows: tuple[Row, ...]) -> list[str]:
    """What may fill a slot below these rows; no piece stands inside itself."""
    assert field.kind is not None
    registry, own = installed(), rows[0].origin.name
    every = registry.rows(field.kind) + registry.disputed(field.kind)
    above_it = {row.target for row in rows}
    found = [row for row in every if row.origin.name in (BUILTIN, own) and row.target not in above_it]
    for above in rows:
        if field.kind in above.accepts:
            found = [row for row in found if row.name in above.accepts[field.kind]]
    names = [row.name if row.origin.name == BUILTIN else row.qualified for row in found]
    return ["none", *names] if field.optional and "none" not in names else names


def _values(field: Field) -> SearchStrategy | None:
    """Values of a plain parameter within its bounds; None for a text, of which nothing sensible is known."""
    return _of_type(field.type, None if field.default is attrs.NOTHING else field.default, field.bounds)


def _of_type(hint: Any, default: Any, bounds: Mapping[str, float]) -> SearchStrategy | None:
    if typing.get_origin(hint) is Literal:
        return st.sampled_from(typing.get_args(hint))
    if is_union(hint):
        options = [_of_type(inner, default, bounds) for inner in typing.get_args(hint) if inner is not type(None)]
        known = [option for option in options if option is not None]
        return st.one_of(st.none(), *known) if known else None
    if typing.get_origin(hint) is tuple:
        inner = typing.get_args(hint)[0]
        items = [_of_type(inner, item, bounds) for item in default or (None,)]
        known = [item for item in items if item is not None]
        return st.lists(st.one_of(*known), max_size=3).map(tuple) if known else None
    if hint is bool:
        return st.booleans()
    if hint is int:
        return _whole(default, bounds)
    return _real(default, bounds) if hint is float else None


def _whole(default: int | None, bounds: Mapping[str, float]) -> SearchStrategy[int]:
    """From the least value on where there is one, else about the default."""
    lows = [math.ceil(bounds[">="])] if ">=" in bounds else []
    lows += [math.floor(bounds[">"]) + 1] if ">" in bounds else []
    low = max(lows) if lows else (default or 0) - REACH // 2
    highs = [low + REACH]
    highs += [math.floor(bounds["<="])] if "<=" in bounds else []
    highs += [math.ceil(bounds["<"]) - 1] if "<" in bounds else []
    return st.integers(low, max(low, min(highs)))


def _real(default: float | None, bounds: Mapping[str, float]) -> SearchStrategy[float]:
    """A decade about the default, or what lies within the bounds; and the bounds themselves where these are allowed."""
    low, high = bounds.get(">=", bounds.get(">", -math.inf)), bounds.get("<=", bounds.get("<", math.inf))
    if default:
        near = sorted((default / DECADE, default * DECADE))
    else:
        near = [low if math.isfinite(low) else min(-1.0, high - 1), high if math.isfinite(high) else max(1.0, low + 1)]
    least, most = max(near[0], low), min(near[1], high)
    margin = (most - least) / 100
    least += margin if bounds.get(">") == least else 0.0
    most -= margin if bounds.get("<") == most else 0.0
    ends = [float(bounds[sign]) for sign in (">=", "<=") if sign in bounds]
    inside = st.floats(least, most, allow_subnormal=False)
    return st.sampled_from(ends) | inside if ends else inside
