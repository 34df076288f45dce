"""What fits where, checked before a tensor exists: what manifest rows accept in the slots below them, and keep."""

from __future__ import annotations

import contextlib
import typing
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from core.acts import spell
from core.errors import UserError
from core.params import Field, summary

if TYPE_CHECKING:
    from core.choices import Setting
    from core.registry import Registry
    from core.rows import Row


def refusals(
    settings: Mapping[str, Setting],
    registry: Registry,
    pieces: Mapping[str, Any] | None = None,
    root: Row | None = None,
) -> list[str]:
    """A line for each piece that stands where a row above it does not accept it, and each value that a name rules out.

    Args:
        settings: of a whole tree.
        registry: where other names for a ruled-out value are looked up.
        pieces: what stands in the slots, by path; a piece may refuse another for more than its name.
        root: the row that the tree as a whole stands for, where it has one.
    """
    lines = [] if root is None else _refused(root, "", settings) + _changed(root, "", settings, registry)
    for path, above in settings.items():
        if above.row is not None:
            # The parts of an inline piece stand beside it.
            prefix = path.removesuffix(above.field.name) if above.field.inline else f"{path}."
            lines += _refused(above.row, prefix, settings) + _changed(above.row, prefix, settings, registry)
            if pieces is not None and pieces.get(path) is not None:
                lines += _unwanted(pieces[path], above.row, prefix, settings, pieces)
    return lines


def fit(row: Row, cls: type, field: Field, system: Setting | None, registry: Registry) -> None:
    """Refuse a piece of another family than a slot asks for, where it asks for one, or of another system.

    Args:
        row: of the piece.
        cls: of the piece.
        field: the slot.
        system: what the tree is of, where that is known.
        registry: where those that fit are looked up.

    Raises:
        UserError: with the names of those that fit.
    """
    if system is not None and row.system not in (None, system.value):
        raise UserError(
            f"the {row.kind} {row.name!r} is made for the system {row.system!r}, not for {system.value!r}: "
            f"give --system {row.system}, or other {row.kind}"
        )
    family = typing.cast(type, field.piece)
    if "KIND" in vars(family) or issubclass(cls, family):
        return
    fitting = []
    for other in registry.rows(row.kind):
        with contextlib.suppress(UserError):  # what does not load fits nowhere
            if issubclass(other.load(), family):
                fitting.append(other.spoken)
    raise UserError(
        f"the {row.kind} {row.name!r} does not fit where a {family.__name__} is asked for ({summary(family)[:-1]}); "
        f"those that fit: {', '.join(fitting) or 'none installed'}"
    )


def _refused(above: Row, prefix: str, settings: Mapping[str, Setting]) -> list[str]:
    lines = []
    for kind, names in above.accepts.items():
        for path, below in settings.items():
            inside = path.startswith(prefix) and below.row is not None and below.field.kind == kind
            if inside and below.row is not None and below.row.name not in names:
                allowed = f"; it takes {', '.join(names)}" if names else ""
                because = _because(above, kind)
                lines.append(f"{path}: {above.name} takes no {kind} {below.value!r}{because}{allowed} ({below.origin})")
    return lines


def _unwanted(
    piece: Any, above: Row, prefix: str, settings: Mapping[str, Setting], pieces: Mapping[str, Any]
) -> list[str]:
    """A line for each piece below that one refuses by its values."""
    lines = []
    for path, below in pieces.items():
        if path.startswith(prefix) and below is not None and below is not piece:
            reason = piece.rejects(below)
            if reason is not None:
                setting = settings[path]
                kind = setting.row.kind if setting.row is not None else "piece"
                lines.append(
                    f"{path}: {above.name} takes no {kind} {setting.value!r}, because {reason} ({setting.origin})"
                )
    return lines


def _changed(row: Row, prefix: str, settings: Mapping[str, Setting], registry: Registry) -> list[str]:
    """A line for each parameter whose value is another than the row's name stands for."""
    lines = []
    for name, options in row.keeps.items():
        found = settings.get(prefix + name)
        if found is None or found.value in options:
            continue
        free = [r.spoken for r in registry.rows(row.kind) if r.target == row.target and name not in r.keeps]
        other = f", or choose the {row.kind} {' or '.join(free)}" if free else ""
        kept = " or ".join(map(spell, options))
        lines.append(
            f"{found.path}: {row.name} stands for {name} = {kept}, not {spell(found.value)}; leave it out{other} "
            f"({found.origin})"
        )
    return lines


def absent(kind: str, settings: Mapping[str, Setting]) -> str | None:
    """Why a tree has no slot of a kind, where a row says what of that kind it accepts."""
    for path, setting in settings.items():
        if setting.row is not None and kind in setting.row.accepts:
            return f"{path} {setting.value!r} takes no {kind}{_because(setting.row, kind)}"
    return None


def _because(row: Row, kind: str) -> str:
    reason = row.because.get(kind)
    return f", because {reason}" if reason else ""
