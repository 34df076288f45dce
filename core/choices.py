"""What was said of a configuration, and what came of it: layers of choices, chains of values, the resolved tree."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from core.errors import UserError
from core.names import Bare, split
from core.params import Field
from core.rows import Row

Rank = tuple[int, int]
"""how much a value weighs: the layer that said it, then preset, name or the key itself"""


class ConfigError(UserError):
    """One or several wrong values; each line names the parameter, what was wrong and who said it."""


@attrs.frozen
class Value:
    """One link of a chain: what was said, by whom, and how much it weighs."""

    value: Any
    origin: str
    rank: Rank
    base: str | None = None
    """where the piece stands whose preset or name says it; None where the user does"""


@attrs.frozen
class Layer:
    """Choices of one source as flat dotted keys: `{"attention.heads": (4, "epi.toml:3")}`."""

    name: str
    entries: Mapping[str, tuple[Any, str]]
    flags: tuple[str, ...] = ()
    """what may be said there besides parameters (`--dry-run`), for near matches"""


@attrs.frozen(kw_only=True)
class Setting:
    """One resolved parameter or slot."""

    path: str
    field: Field
    value: Any
    chain: tuple[Value, ...]
    """lowest first; the last one won"""
    row: Row | None = None
    """the row that fills a slot"""
    identity: bool = True
    """False where it, or a slot above it, cannot change numbers"""

    @property
    def origin(self) -> str:
        return self.chain[-1].origin


@attrs.frozen(kw_only=True)
class Resolved:
    """The tree as an object, and every value of it by dotted path."""

    root: Any
    settings: Mapping[str, Setting]
    pieces: Mapping[str, Any] = attrs.field(factory=dict)
    """what stands in the slots, by path"""
    notes: tuple[str, ...] = ()
    """what the user should hear: deprecated names, values that fell away with a replaced piece"""

    def slots(self) -> dict[str, Setting]:
        return {path: s for path, s in self.settings.items() if s.field.role == "slot"}

    def sayers(self, path: str) -> str:
        """Who chose a piece and what it holds, `CLI --extractor, CLI --extractor.file`: files, flags and variables;
        where the name of a piece around it chose it, who said that name."""
        said = [s.origin for at, s in self.settings.items() if at == path or at.startswith(f"{path}.")]
        told = [origin for origin in dict.fromkeys(said) if not origin.startswith(("default", "preset", "name "))]
        above = path.rpartition(".")[0]
        return ", ".join(told) or (self.sayers(above) if above else ", ".join(said[:1]))


def join(path: str, name: str) -> str:
    """A dotted key below another, or at the top."""
    return f"{path}.{name}" if path else name


def flatten(table: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """Nested tables as dotted keys; `name` inside a table names the table itself."""
    flat: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, join(path, key))
        elif key == "name" and path:
            flat[path] = value
        else:
            flat[join(path, key)] = value
    return flat


def listed(value: Any) -> list[str]:
    """The names in a list of names.

    Raises:
        UserError: something else than names.
    """
    if isinstance(value, Bare):
        raise UserError("names are missing; write them with commas between")
    if isinstance(value, str):
        bracketed = value.strip().startswith("[") and value.strip().endswith("]")
        inner = value.strip()[1:-1] if bracketed else value
        return [piece.strip().strip("\"'") for piece in split(inner, value)]
    if not isinstance(value, (list, tuple)) or not all(isinstance(v, str) for v in value):
        raise UserError(f"expected a list of names, got {value!r}")
    return [*value]
