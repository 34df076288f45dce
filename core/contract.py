"""What fits where, checked before a tensor exists: the `accepts` of manifest rows against the slots below them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from core.config import Setting
    from core.rows import Row


def refusals(settings: Mapping[str, Setting], root: Row | None = None) -> list[str]:
    """A line for each piece that stands where a row above it does not accept it.

    Args:
        settings: of a whole tree.
        root: the row that the tree as a whole stands for, where it has one.
    """
    lines = [] if root is None else _refused(root, "", settings)
    for path, above in settings.items():
        if above.row is not None:
            # The parts of an inline piece stand beside it.
            prefix = path.removesuffix(above.field.name) if above.field.inline else f"{path}."
            lines += _refused(above.row, prefix, settings)
    return lines


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


def absent(kind: str, settings: Mapping[str, Setting]) -> str | None:
    """Why a tree has no slot of a kind, where a row says what of that kind it accepts."""
    for path, setting in settings.items():
        if setting.row is not None and kind in setting.row.accepts:
            return f"{path} {setting.value!r} takes no {kind}{_because(setting.row, kind)}"
    return None


def _because(row: Row, kind: str) -> str:
    reason = row.because.get(kind)
    return f", because {reason}" if reason else ""
