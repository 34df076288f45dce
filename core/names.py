"""How pieces are spoken of: names, patterns (`moe4x2`), calls (`window(radius=8)`), qualified names (`acme/swish`)."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Callable, Iterable

import attrs

from core.errors import UserError

NAME = re.compile(r"[a-z][a-z0-9_]*")
_CALL = re.compile(r"(?P<head>[^()]+?)\s*(?:\((?P<args>.*)\))?", re.DOTALL)
_HOLE = re.compile(r"\{(\w+):(\w+)\}")
_HOLES: dict[str, tuple[str, Callable[[str], int | float | str]]] = {
    "int": (r"[0-9]{1,18}", int),
    "float": (r"[0-9]+(?:\.[0-9]+)?", float),
    "word": (r"[a-z]+", str),
}


class Text(str):
    """A value as a user typed it, on the command line, in the environment or inside a call; typed by its parameter."""


class Bare(Text):
    """What a flag without a value says: `true`, for parameters that are true or false."""


@attrs.frozen
class Spoken:
    """A name taken apart."""

    head: str
    qualifier: str | None = None
    args: dict[str, str] = attrs.field(factory=dict)
    """`Text` as typed; what stood in quotes is a plain `str`"""


def parse(text: str) -> Spoken:
    """`acme/window(radius=8, coord=aligned)` as qualifier, head and arguments.

    Raises:
        UserError: brackets that do not close, or an argument without a name or given twice.
    """
    hit = _CALL.fullmatch(text.strip())
    if hit is None:
        raise UserError(f"{text!r} is no name: a name is a word, a call is word(key=value, ...)")
    qualifier, slash, head = hit["head"].strip().rpartition("/")
    args: dict[str, str] = {}
    for piece in split(hit["args"] or "", text):
        key, equals, value = piece.partition("=")
        if not equals or not key.strip():
            raise UserError(f"{text!r}: write arguments as key=value, not {piece.strip()!r}")
        if key.strip() in args:
            raise UserError(f"{text!r}: {key.strip()} is given twice; keep one")
        args[key.strip()] = _argument(value.strip())
    return Spoken(head, qualifier if slash else None, args)


def _argument(value: str) -> str:
    if value[:1] in ("'", '"'):
        try:
            plain = tomllib.loads(f"x = {value}")["x"]
        except ValueError:
            return Text(value)
        return plain if isinstance(plain, str) else Text(value)
    return Text(value)


def split(args: str, text: str) -> list[str]:
    """The pieces of `args` between commas that stand outside brackets and quotes; `text` is what an error shows.

    Raises:
        UserError: brackets or quotes that do not close.
    """
    pieces, depth, quote, start, escaped = [], 0, "", 0, False
    for i, char in enumerate(args):
        if escaped:
            escaped = False
        elif quote:
            escaped = char == "\\" and quote == '"'
            quote = "" if char == quote else quote
        elif char in "\"'":
            quote = char
        elif char in "([{":
            depth += 1
        elif char in ")]}":
            depth -= 1
        elif char == "," and depth == 0:
            pieces.append(args[start:i])
            start = i + 1
        if depth < 0:
            break
    if depth or quote:
        raise UserError(f"{text!r}: brackets or quotes do not close")
    pieces.append(args[start:])
    return [p for p in pieces if p.strip()]


def compile_pattern(pattern: str) -> tuple[re.Pattern[str], dict[str, Callable]]:
    """A manifest pattern such as `moe{experts:int}x{top_k:int}` as a regular expression and its casts.

    Raises:
        ValueError: a hole of an unknown type or without one, or two of one name.
    """
    pieces = _HOLE.split(pattern)
    if any("{" in piece or "}" in piece for piece in pieces):
        raise ValueError(f"pattern {pattern!r}: a hole is written {{name:int}}")
    regex, casts = re.escape(pieces[0]), {}
    for name, kind, tail in zip(pieces[1::3], pieces[2::3], pieces[3::3], strict=True):
        if kind not in _HOLES:
            raise ValueError(f"pattern {pattern!r}: a hole is int, float or word, not {kind!r}")
        expression, casts[name] = _HOLES[kind]
        regex += f"(?P<{name}>{expression}){re.escape(tail)}"
    try:
        return re.compile(regex), casts
    except re.error as error:
        raise ValueError(f"pattern {pattern!r}: {error}") from None


def match_pattern(pattern: str, name: str) -> dict[str, int | float | str] | None:
    """The values that `name` gives the holes of `pattern`, or None."""
    regex, casts = compile_pattern(pattern)
    hit = regex.fullmatch(name)
    return {k: casts[k](v) for k, v in hit.groupdict().items()} if hit else None


def near(word: str, options: Iterable[str]) -> str:
    """` Did you mean 'x'?`, or nothing. Numbers are levelled: `meo4x2` finds `moe{experts:int}x{top_k:int}`."""
    hit = nearest(word, options)
    return f" Did you mean {hit!r}?" if hit else ""


def nearest(word: str, options: Iterable[str]) -> str | None:
    """The option that `word` was most likely meant to be, or None."""
    spoken = {_level(option): option for option in options}
    hit = difflib.get_close_matches(_level(word), spoken, n=1, cutoff=0.6)
    return spoken[hit[0]] if hit else None


def _level(word: str) -> str:
    return re.sub(r"\d+", "2", _HOLE.sub("2", word)).casefold()
