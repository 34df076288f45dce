"""When a parameter acts: nearly all always do, some only beside certain values of another.

    spectral_bound: float = knob(1.0, "largest norm that is left alone", acts="spectral!=none")

A condition reads `FIELD=VALUE`, `FIELD=VALUE|VALUE`, `FIELD!=VALUE` or `FIELD!=FIELD`, several joined by ` and `;
fields are those of the same class, and no value is written `""`. A slot that may stay empty can be a field too: what is
in it is never `none`. Where a condition does not hold, the parameter may only have its default: any other value would
be given in vain, and would still make another run of the same numbers.
"""

from __future__ import annotations

import re
import typing
from collections.abc import Mapping
from typing import Any, Literal

import attrs

_ONE = re.compile(r"([a-z][a-z0-9_]*)(!?=)(.+)")


class Idle(ValueError):
    """A parameter was given a value where it does nothing.

    Args:
        name: of the parameter.
        value: that was given.
        failed: the condition that does not hold.
        found: the values of the parameters that it names.
    """

    def __init__(self, name: str, value: Any, failed: Condition, found: Mapping[str, Any]) -> None:
        self.name, self.value, self.failed, self.found = name, value, failed, dict(found)
        super().__init__(f"{name} = {spell(value)} {self.reason()}")

    def reason(self, prefix: str = "") -> str:
        """`does nothing, as spectral is none; leave it out, or choose ...`, fields with a prefix before their names."""
        given = " and ".join(f"{prefix}{name} is {spell(value)}" for name, value in self.found.items())
        return f"does nothing, as {given}; leave it out, or choose {self.failed.words(prefix)}"


@attrs.frozen
class Condition:
    """One comparison of a field with values, or with another field."""

    name: str
    equal: bool
    values: tuple[str, ...]
    other: str = ""
    """the field that it is compared with, in place of values"""
    choices: tuple[str, ...] = ()
    """of a field with a closed list of values, those with which the condition holds"""

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name, self.other) if self.other else (self.name,)

    def holds(self, values: Mapping[str, Any]) -> bool:
        if self.other:
            return (values[self.name] == values[self.other]) == self.equal
        return (spell(values[self.name]) in self.values) == self.equal

    def words(self, prefix: str = "") -> str:
        """What a reader is to choose: `spectral = penalty or projection`."""
        if self.other:
            relation = "equal to" if self.equal else "other than"
            return f"{prefix}{self.name} {relation} {prefix}{self.other}"
        if self.choices:
            return f"{prefix}{self.name} = {' or '.join(self.choices)}"
        return f"{prefix}{self.name} {'=' if self.equal else 'other than'} {' or '.join(self.values)}"


def spell(value: Any) -> str:
    """A value as it stands in a condition and is typed on a command line."""
    if value is None or isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ",".join(spell(item) for item in value)
    return f"{value:g}" if isinstance(value, float) else str(value) or '""'


def read_conditions(text: str, types: Mapping[str, Any]) -> tuple[Condition, ...]:
    """The conditions in a text, none for an empty one.

    Args:
        text: as in the head of this module.
        types: of the fields that may be named.

    Raises:
        ValueError: it does not read as a condition, or names a field or a value that does not exist.
    """
    return tuple(_one(part.strip(), types) for part in text.split(" and ")) if text else ()


def _one(text: str, types: Mapping[str, Any]) -> Condition:
    match = _ONE.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is no condition; write FIELD=VALUE, FIELD=VALUE|VALUE or FIELD!=VALUE")
    name, sign, right = match.groups()
    if name not in types:
        raise ValueError(f"{text!r}: there is no plain parameter {name!r} here")
    equal, values = sign == "=", tuple(right.split("|"))
    options = tuple(spell(o) for o in typing.get_args(types[name])) if typing.get_origin(types[name]) is Literal else ()
    if right in types and right not in options:
        return Condition(name, equal, (), other=right)
    wrong = [value for value in values if options and value not in options]
    if wrong:
        raise ValueError(f"{text!r}: {name} is one of {', '.join(options)}")
    return Condition(name, equal, values, choices=tuple(o for o in options if (o in values) == equal))


def idle(conditions: tuple[Condition, ...], values: Mapping[str, Any]) -> Condition | None:
    """The first of the conditions that does not hold."""
    return next((condition for condition in conditions if not condition.holds(values)), None)
