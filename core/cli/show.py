"""`core show KIND NAME`: one piece, its parameters and where it comes from."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping
from typing import Any

import attrs

from core.acts import spell
from core.config import resolve_part
from core.errors import UserError
from core.names import near
from core.params import Field, fields
from core.registry import KINDS, installed
from core.rows import Row
from core.structure import structure

HELP = """usage: core show KIND NAME

What a piece is: its parameters with types, ranges and defaults, its source, what it accepts, who brought it."""


def main(words: list[str]) -> int:
    if "-h" in words or "--help" in words:
        print(HELP)
        return 0
    if not words:
        raise UserError(f"usage: core show KIND NAME. Kinds: {', '.join(KINDS)}")
    if len(words) != 2:
        registry = installed()
        names = ", ".join(row.spoken for row in registry.rows(words[0])) if len(words) == 1 else ""
        raise UserError(f"usage: core show KIND NAME{'. Known here: ' + names if names else ''}")
    kind, name = words
    found = installed().find(kind, name)
    row = found.row
    if found.warning:
        print(f"core: {found.warning}", file=sys.stderr)
    cls = None if kind == "recipe" else row.load()
    if cls is not None:
        _check(row, cls, found.values, name)
        if found.values:  # what the name says may be well-typed and still contradict itself (`moe4x9`)
            resolve_part(kind, name, {})
    print(f"{kind} {row.spoken}: {row.summary}")
    for label, value in (
        ("brought by", str(row.origin)),
        ("revision", str(row.revision)),
        ("source", row.source),
        ("preset", ", ".join(f"{k} = {v}" for k, v in row.preset.items())),
        ("a call gives", ", ".join(f"{word} to {path}" for word, path in row.forwards.items())),
        ("keeps", "; ".join(f"{k} = {' or '.join(map(spell, v))}" for k, v in row.keeps.items())),
        ("accepts", "; ".join(f"{k}: {', '.join(v) or 'none'}" for k, v in row.accepts.items())),
    ):
        if value:
            print(f"  {label}: {value}")
    if cls is None:
        print(f"  for system: {row.system}")
        return 0
    print(f"\n{inspect.cleandoc(cls.__doc__ or '')}\n")
    described = list(_parameters(cls, "", {**row.preset, **found.values}))
    wide = max((len(p[0]) for p in described), default=0)
    typed = max((len(p[1]) for p in described), default=0)
    print("parameters" if described else "no parameters")
    for path, spelled, default, text in described:
        print(f"  {path:{wide}}  {spelled:{typed}}  {default:>12}  {text}")
    return 0


def _check(row: Row, cls: type, said: Mapping[str, Any], name: str) -> None:
    """Refuse what a spoken name says of parameters that do not exist, or that are of another type."""
    known = {field.name: field for field in fields(cls)}
    for key, value in said.items():
        field = known.get(key.partition(".")[0])
        if field is None:
            words = [*row.forwards, *known]
            raise UserError(f"{name}: unknown parameter {key!r}.{near(key, words)} Known: {', '.join(words)}")
        if field.role == "knob":
            try:
                structure(value, field.type)
            except ValueError as error:
                raise UserError(f"{name}: {key}: {error}") from None


def _parameters(cls: type, path: str, said: dict[str, object]) -> list[tuple[str, str, str, str]]:
    rows = []
    for field in fields(cls):
        key = f"{path}{field.name}"
        if field.role == "group":
            rows += _parameters(field.type, f"{key}.", {})
        else:
            rows.append((key, field.spell(), _default(field, said), _text(field)))
    return rows


def _default(field: Field, said: dict[str, object]) -> str:
    if field.name in said:
        return str(said[field.name])
    if field.default is attrs.NOTHING:
        return "required"
    if field.many:
        return f"{len(field.default or ())} names"
    if field.default is None:
        return "none" if field.optional or field.role == "knob" else "by kind"
    return ",".join(map(str, field.default)) if isinstance(field.default, tuple) else str(field.default)


def _text(field: Field) -> str:
    unit = f" [{field.unit}]" if field.unit else ""
    source = f" ({field.source})" if field.source else ""
    acts = "; acts with " + " and ".join(condition.words() for condition in field.acts) if field.acts else ""
    return field.help + unit + source + acts
