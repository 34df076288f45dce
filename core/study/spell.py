"""A study as asked, written as a study file that asks for the same."""

from __future__ import annotations

import tomllib
from typing import Any

import tomlkit

from core.names import Text
from core.study.ask import SCHEMA, Asked


def spell(asked: Asked, baseline: dict[str, str]) -> str:
    """TOML text; `core.study.ask.ask` of it gives the same axes, settings, seeds, exclusions and fixed values.

    Args:
        asked: the study.
        baseline: the level of every axis, written out whoever chose it.
    """
    doc = tomlkit.document()
    doc.add(tomlkit.comment("A study. `core ablate FILE` runs it; every key is a flag too."))
    doc["schema"] = SCHEMA
    settings = {p: s.value for p, s in asked.resolved.settings.items() if s.value != s.field.default}
    if "title" in settings:
        doc["name"] = settings.pop("title")
    for key in ("system", "seeds", "blocks"):
        if key in settings:
            value = settings.pop(key)
            doc[key] = list(value) if isinstance(value, tuple) else value
    fixed = [layer for layer in asked.fixed if layer.name != "environment"]
    values = {key: value for layer in fixed for key, (value, _) in layer.entries.items()}
    if values:
        table = tomlkit.table()
        for key, value in values.items():
            table.add(tomlkit.key(key.split(".")), _plain(value))
        doc["set"] = table
    for name, layer in asked.tasks.items():
        table = tomlkit.table()
        for key, (value, _) in layer.entries.items():
            table.add(tomlkit.key(key.split(".")), _plain(value))
        doc.setdefault("tasks", tomlkit.table(is_super_table=True))[name] = table
    table = tomlkit.table()
    for key, chosen in baseline.items():
        table.add(tomlkit.key(key.split(".")), chosen)
    doc["baseline"] = table
    table = tomlkit.table()
    for axis in asked.axes:
        levels = []
        for level in axis.levels:
            own = level.entries[axis.key]
            rest = {k.removeprefix(f"{axis.key}."): _plain(v) for k, v in level.entries.items() if k != axis.key}
            plain = _plain(own)
            if rest or level.label != _label(plain):
                inline = tomlkit.inline_table()
                inline["name" if rest or isinstance(plain, str) else "value"] = plain
                for k, v in rest.items():
                    inline.add(tomlkit.key(k.split(".")), v)
                inline["as"] = level.label
                levels.append(inline)
            else:
                levels.append(plain)
        array = tomlkit.array()
        array.extend(levels)
        table.add(tomlkit.key(axis.key.split(".")), array)
    doc["axes"] = table
    for group in ("design", "budget", "analysis", "run"):
        mine = {k.removeprefix(f"{group}."): v for k, v in settings.items() if k.startswith(f"{group}.")}
        extra = group == "design" and (asked.exclude or asked.cells)
        if mine or extra:
            table = tomlkit.table()
            for key, value in mine.items():
                table[key] = list(value) if isinstance(value, tuple) else value
            if group == "design" and asked.exclude:
                table["exclude"] = [{**levels, "why": why} for levels, why, _ in asked.exclude]
            if group == "design" and asked.cells:
                table["cells"] = [dict(cell) for cell in asked.cells]
            doc[group] = table
    return tomlkit.dumps(doc)


def _label(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _plain(value: Any) -> Any:
    """A value as TOML has it. What was typed is read as TOML where it is a number, a truth value or a list."""
    if isinstance(value, Text):
        try:
            read = tomllib.loads(f"x = {value}")["x"] if "\n" not in value else str(value)
        except tomllib.TOMLDecodeError:
            read = str(value)
        return read if isinstance(read, (int, float, bool, list)) else str(value)
    return list(value) if isinstance(value, tuple) else value
