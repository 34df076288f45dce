"""Values as their declared types, strictly, whether they were typed on a command line or read from a file."""

from __future__ import annotations

import re
import tomllib
import typing
from typing import Any, Literal

import cattrs

from core.names import Bare, Text, near
from core.params import is_union, spell_type

_LOOSE_FLOAT = re.compile(r"[+-]?([0-9]+\.|\.[0-9]+)(e[+-]?[0-9]+)?", re.IGNORECASE)


def structure(value: Any, hint: Any) -> Any:
    """`value` as the declared type, strictly: no text becomes a number, no number a flag.

    What a user typed (`Text`) is read as TOML first, unless the parameter is a text itself.

    Raises:
        ValueError: the value is of another type.
    """
    if isinstance(value, Bare) and bool not in (hint, *typing.get_args(hint)):
        raise ValueError(f"a value is missing: expected {spell_type(hint)}")
    try:
        if isinstance(value, Text):
            value = _typed(value, hint)
        return _CONVERTER.structure(value, hint)
    except (cattrs.errors.BaseValidationError, TypeError, ValueError, OverflowError, RecursionError) as error:
        if isinstance(error, cattrs.errors.BaseValidationError):
            error = error.exceptions[0]  # type: ignore[assignment]
        text = str(error)
        raise ValueError(
            text if text.startswith("expected") else f"expected {spell_type(hint)}, got {value!r}"
        ) from None


def _typed(text: Text, hint: Any) -> Any:
    if hint is str or typing.get_origin(hint) is Literal:
        return str(text)
    if is_union(hint):
        if text == "none" and type(None) in typing.get_args(hint):
            return None
        inner = [a for a in typing.get_args(hint) if a is not type(None)]
        if len(inner) == 1:
            return _typed(text, inner[0])
    try:
        value = tomllib.loads(f"x = {text}")["x"] if "\n" not in text else str(text)
    except tomllib.TOMLDecodeError:
        loose = hint is float and _LOOSE_FLOAT.fullmatch(text)  # people type .5 and 1., which TOML does not know
        value = float(text) if loose else str(text)
    if typing.get_origin(hint) is tuple and not isinstance(value, list):
        inner = typing.get_args(hint)[0]
        return [_typed(Text(piece.strip()), inner) for piece in str(text).split(",") if piece.strip()]
    return value


def _strict() -> cattrs.Converter:
    converter = cattrs.Converter(detailed_validation=False)

    def exactly(kind: type, *accepted: type) -> None:
        def hook(value: Any, _: Any) -> Any:
            if type(value) not in accepted:
                raise ValueError(f"expected {spell_type(kind)}, got {value!r}")
            return kind(value)

        converter.register_structure_hook(kind, hook)

    def choice(value: Any, hint: Any) -> Any:
        options = typing.get_args(hint)
        if not any(value == o and type(value) is type(o) for o in options):
            raise ValueError(f"expected {spell_type(hint)}, got {value!r}.{near(str(value), map(str, options))}")
        return value

    def sequence(value: Any, hint: Any) -> tuple:
        if not isinstance(value, (list, tuple)):
            raise ValueError(f"expected {spell_type(hint)}, got {value!r}")
        return tuple(converter.structure(v, typing.get_args(hint)[0]) for v in value)

    def union(value: Any, hint: Any) -> Any:
        if type(None) in typing.get_args(hint) and (value is None or value == "none"):  # TOML has no null
            return None
        inner = [a for a in typing.get_args(hint) if a is not type(None)]
        if len(inner) == 1:
            return converter.structure(value, inner[0])
        for kind in inner:
            try:
                return converter.structure(value, kind)
            except ValueError:
                continue
        raise ValueError(f"expected {spell_type(hint)}, got {value!r}")

    exactly(int, int)
    exactly(float, float, int)
    exactly(bool, bool)
    exactly(str, str)
    converter.register_structure_hook_func(lambda t: typing.get_origin(t) is Literal, choice)
    converter.register_structure_hook_func(lambda t: typing.get_origin(t) is tuple, sequence)
    converter.register_structure_hook_func(is_union, union)
    return converter


_CONVERTER = _strict()
