"""Command lines of verbs whose flags are the knobs of a parameter class."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import attrs

from core.errors import UserError
from core.layers import is_flag
from core.names import Bare, Text, near
from core.params import Field, fields, spell_type
from core.structure import structure


def read_flags(
    classes: Sequence[type], words: Sequence[str], verb: str, short: dict[str, str] | None = None
) -> tuple[list[Any], list[str]]:
    """The instances that flags describe, and the words that are no flags.

    A knob `z_spacing` is the flag `--z-spacing` (or `--z_spacing`); one of true or false is `--name` or `--no-name`.

    Args:
        classes: `@params` classes of knobs; a flag speaks to each that has it.
        words: the command line behind the verb.
        verb: what the user typed, for messages.
        short: short spellings, such as `-o` for `out`.

    Raises:
        UserError: an unknown flag (with the nearest), a flag twice, a missing value, or one of another type or out of
            bounds.
    """
    known = _known(classes)
    short = short or {}
    said: dict[str, Any] = {}
    places: list[str] = []
    rest = [*words]
    while rest:
        word = rest.pop(0)
        if not is_flag(word):
            places.append(word)
            continue
        head, equals, tail = word.partition("=")
        name, negated = _name(head, known, short, verb)
        field = known[name]
        if field.type is bool:
            value: Any = Text(tail) if equals else Bare("true")
            if negated and equals:
                raise UserError(f"{head} takes no value, not {tail!r}")
            if negated:
                value = Text("false")
        else:
            if not equals and (not rest or is_flag(rest[0])):
                raise UserError(f"{head} needs a value: {field.help}")
            value = Text(tail if equals else rest.pop(0))
        if name in said and said[name] != value:
            raise UserError(f"{head} is given twice, as {str(said[name])!r} and as {str(value)!r}; keep one")
        said[name] = value
    values = {}
    for name, value in said.items():
        try:
            values[name] = structure(value, known[name].type)
        except ValueError as error:
            raise UserError(f"{flag(name)}: {error}") from None
    for field in known.values():
        if field.required and field.name not in values:
            raise UserError(f"{flag(field.name)} is missing: {field.help}. `core {verb} --help` tells more")
    try:
        return [cls(**{f.name: values[f.name] for f in fields(cls) if f.name in values}) for cls in classes], places
    except ValueError as error:
        raise UserError(f"core {verb}: {error!s}") from None


def describe_flags(classes: Sequence[type], short: dict[str, str] | None = None) -> str:
    """A line or two for each flag: spelling, meaning, default."""
    shorts = {name: spelling for spelling, name in (short or {}).items()}
    lines = []
    for field in _known(classes).values():
        spelled = flag(field.name, no=field.type is bool and field.default is True)
        spelled = ", ".join(filter(None, (shorts.get(field.name), spelled)))
        if field.type is not bool:
            spelled += " " + _placeholder(field)
        default = "" if field.required or field.type is bool or field.default in ("", ()) else f" ({field.default})"
        unit = f" [{field.unit}]" if field.unit else ""
        text = textwrap.wrap(f"{field.help}{unit}{default}", 118 - 32)
        lines.append(f"  {spelled:29} {text[0]}" if len(spelled) < 30 else f"  {spelled}\n{'':32}{text[0]}")
        lines += [f"{'':32}{line}" for line in text[1:]]
    return "\n".join(lines)


def flag(name: str, *, no: bool = False) -> str:
    """How a knob is spelled as a flag."""
    return ("--no-" if no else "--") + name.replace("_", "-")


@contextmanager
def told_as_flags(classes: Sequence[type]) -> Iterator[None]:
    """Inside the block a mistake is told by flags: the same pieces have dotted names in a configuration."""
    try:
        yield
    except UserError as error:
        error.args = (as_flags(str(error), classes),)
        raise


def as_flags(said: str, classes: Sequence[type]) -> str:
    """A message that names knobs, "set `cell_type`" or "set scale = false", with a command's flags in their place."""
    for name, field in _known(classes).items():
        said = said.replace(f"`{name}`", flag(name))
        for value in set(re.findall(rf"\b(?:set|or) {name} = ('[^']*'|[\w.+-]*\w)", said)):
            spelled = f"{flag(name)} {value.strip(chr(39))}"
            if field.type is bool:
                spelled = flag(name, no=value == "false")
            said = said.replace(f"{name} = {value}", spelled)
    return said


def _known(classes: Sequence[type]) -> dict[str, Field]:
    return {field.name: field for cls in classes for field in fields(cls)}


def _name(head: str, known: dict[str, Field], short: dict[str, str], verb: str) -> tuple[str, bool]:
    if head in short:
        return short[head], False
    name = head.removeprefix("--").replace("-", "_") if head.startswith("--") else ""
    if name in known:
        return name, False
    positive = name.removeprefix("no_")
    if positive != name and positive in known and known[positive].type is bool:
        return positive, True
    options = [flag(f.name, no=f.type is bool and f.default is True) for f in known.values()]
    raise UserError(f"`core {verb}` has no flag {head}.{near(head, options)} `core {verb} --help` lists them")


def _placeholder(field: Field) -> str:
    spelled = spell_type(field.type)
    return spelled if "|" in spelled else {"text": "TEXT", "int": "N", "float": "X"}.get(spelled, "A,B")


def settings(instance: Any) -> dict[str, Any]:
    """The values of a parameter class that can change numbers, for keys and metadata."""
    kept = [field.name for field in fields(type(instance)) if field.identity]
    return {name: value for name, value in attrs.asdict(instance).items() if name in kept}
