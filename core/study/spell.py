"""A study as asked, written as a study file that asks for the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tomlkit
from tomlkit.items import InlineTable

from core.names import Bare
from core.study.ask import Asked
from core.study.axes import Axis, Level, spoken
from core.study.said import SCHEMA

GROUPS = "design", "budget", "analysis", "run"
HEAD = "# A study. `core ablate FILE` runs it; every key is a flag too.\n"


def spell(asked: Asked, baseline: Mapping[str, str]) -> str:
    """TOML text; `core.study.ask.ask` of it gives the same axes, settings, seeds, exclusions and fixed values.

    Args:
        asked: the study. What `CORE_*` variables said stands in the file too, as it is part of every arm.
        baseline: the level of every axis, written out whoever chose it.
    """
    doc = tomlkit.document()
    doc["schema"] = SCHEMA
    settings = {
        path: list(setting.value) if isinstance(setting.value, tuple) else setting.value
        for path, setting in asked.resolved.settings.items()
        if setting.value != setting.field.default or path == "seeds"
    }
    for key, value in settings.items():
        if "." not in key:
            doc["name" if key == "title" else key] = value
    fixed = {key: value for key, (value, _) in asked.shared().items()}
    if fixed:
        doc["set"] = _table(fixed)
    if asked.tasks:
        doc["tasks"] = tomlkit.table(is_super_table=True)
        for name, layer in asked.tasks.items():
            doc["tasks"][name] = _table({key: value for key, (value, _) in layer.entries.items()})
    doc["baseline"] = _table(baseline)
    doc["axes"] = _table({axis.key: [_level(axis, level) for level in axis.levels] for axis in asked.axes})
    for group in GROUPS:
        own = {key.removeprefix(f"{group}."): v for key, v in settings.items() if key.startswith(f"{group}.")}
        if group == "design":
            own |= _design(asked)
        if own:
            doc[group] = _table(own)
    return HEAD + tomlkit.dumps(doc)


def _design(asked: Asked) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if asked.exclude:
        found["exclude"] = [{**levels, "why": why} for levels, why, _ in asked.exclude]
    if asked.cells:
        found["cells"] = [dict(cell) for cell in asked.cells]
    return found


def _level(axis: Axis, level: Level) -> Any:
    """The shortest spelling that gives this level back, label and all."""
    value = level.entries[axis.key]
    rest = {key.removeprefix(f"{axis.key}."): inner for key, inner in level.entries.items() if key != axis.key}
    if not rest:
        return value if spoken(value) == level.label else {"value": value, "as": level.label}
    return {"name": value, **rest, "as": level.label}


def _table(values: Mapping[str, Any]) -> tomlkit.items.Table:
    """A table with one quoted key an entry where it holds dots: `ffn` and `ffn.ratio` may stand side by side."""
    table = tomlkit.table()
    for key, value in values.items():
        table[key] = _item(value)
    return table


def _item(value: Any) -> Any:
    if isinstance(value, Mapping):
        return _inline(value)
    if isinstance(value, (list, tuple)):
        array = tomlkit.array()
        array.extend([_item(inner) for inner in value])
        return array
    return str(value) == "true" if isinstance(value, Bare) else str(value) if isinstance(value, str) else value


def _inline(values: Mapping[str, Any]) -> InlineTable:
    table = tomlkit.inline_table()
    for key, value in values.items():
        table[key] = _item(value)
    return table
