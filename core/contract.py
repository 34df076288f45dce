"""What fits where, checked before a tensor exists: the `accepts` of manifest rows against the slots below them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from core.config import Setting


def refusals(settings: Mapping[str, Setting]) -> list[str]:
    """A line for each piece that stands where a row above it does not accept it."""
    lines = []
    for path, above in settings.items():
        if above.row is None:
            continue
        # The parts of an inline piece stand beside it.
        prefix = path.removesuffix(above.field.name) if above.field.inline else f"{path}."
        for kind, names in above.row.accepts.items():
            for below_path, below in settings.items():
                inside = below_path.startswith(prefix) and below.row is not None and below.field.kind == kind
                if inside and below.row is not None and below.row.name not in names:
                    allowed = f"; it takes {', '.join(names)}" if names else ""
                    because = _because(above, kind)
                    lines.append(
                        f"{below_path}: {above.value} takes no {kind} {below.value!r}{because}{allowed} "
                        f"({below.origin})"
                    )
    return lines


def absent(kind: str, settings: Mapping[str, Setting]) -> str | None:
    """Why a tree has no slot of a kind, where a row says what of that kind it accepts."""
    for path, setting in settings.items():
        if setting.row is not None and kind in setting.row.accepts:
            return f"{path} {setting.value!r} takes no {kind}{_because(setting, kind)}"
    return None


def _because(setting: Setting, kind: str) -> str:
    reason = setting.row.because.get(kind) if setting.row is not None else None
    return f", because {reason}" if reason else ""
