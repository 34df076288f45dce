"""Where choices come from: TOML files, `CORE_*` variables, the command line. Each value remembers its place."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from core.choices import flatten
from core.config import Layer
from core.errors import UserError
from core.names import Bare, Text, nearest

ENV_PREFIX = "CORE_"
ENV_RESERVED = frozenset({"CORE_CONFIG", "CORE_REALDATA", "CORE_STORE"})
SEEN = 8
"""files named to someone whose own is not there"""
_TABLE = re.compile(r"\s*\[\s*([^\[\]]+?)\s*\]\s*(?:#.*)?")
_NUMBER = re.compile(r"-\.?\d")
_KEY = re.compile(r"\s*([A-Za-z0-9_.\-\"]+)\s*=")


def file_layer(path: str) -> Layer:
    """A TOML file as a layer; origins read `epi.toml:14`.

    Raises:
        UserError: the file is missing, unreadable or not TOML.
    """
    file = Path(path)
    try:
        text = file.read_text("utf-8-sig")  # editors on Windows begin a file with a byte order mark
    except FileNotFoundError:
        beside = sorted(p.stem for p in file.parent.glob("*.toml")) if file.parent.is_dir() else []
        named = ", ".join(f"{stem}.toml" for stem in beside[:SEEN]) + (", ..." if len(beside) > SEEN else ".")
        close = nearest(file.stem, beside)
        hint = f" Did you mean {close}.toml?" if close else f" There are {named}" if beside else ""
        raise UserError(f"no file {path}.{hint}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}") from None
    return text_layer(text, file.name, path)


def text_layer(text: str, name: str, path: str = "") -> Layer:
    """TOML as a layer; origins read `NAME:14`.

    Raises:
        UserError: it is not TOML.
    """
    try:
        doc = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path or name} is not TOML: {error}") from None
    lines = _lines(text)
    entries = {}
    for key, value in flatten(doc).items():
        line = _line_of(key, lines)
        entries[key] = (value, f"{name}:{line}" if line else name)
    return Layer(name, entries)


def _line_of(key: str, lines: Mapping[str, int]) -> int | None:
    """The line of a key, else that of the inline table that holds it."""
    while key:
        line = lines.get(key) or lines.get(f"{key}.name")
        if line:
            return line
        key = key.rpartition(".")[0]
    return None


def _lines(text: str) -> dict[str, int]:
    """Line number of each dotted key that stands before a `=`; tomllib has none."""
    lines, table = {}, ""
    for number, line in enumerate(text.splitlines(), 1):
        if hit := _TABLE.fullmatch(line):
            table = hit[1].replace('"', "").replace(" ", "") + "."
        elif hit := _KEY.match(line):
            lines[table + hit[1].replace('"', "")] = number
    return lines


def env_layer(environ: Mapping[str, str]) -> Layer:
    """`CORE_TRAIN__STEPS=100` as `train.steps`; two underscores stand for a dot.

    Raises:
        UserError: a value that is no UTF-8 text.
    """
    entries = {}
    for name, value in sorted(environ.items()):
        if name.startswith(ENV_PREFIX) and name not in ENV_RESERVED:
            key = name.removeprefix(ENV_PREFIX).lower().replace("__", ".")
            entries[key] = (_text(value, name), f"environment {name}")
    return Layer("environment", entries)


def is_flag(word: str) -> bool:
    """Whether a word is a flag; a negative number is a value."""
    return word.startswith("-") and len(word) > 1 and not _NUMBER.match(word)


def cli_layer(tokens: Sequence[str], flags: Sequence[str] = ()) -> Layer:
    """`--ffn.top_k 2`, `--ffn.top_k=2` and the bare `--ffn.shared` (true) as a layer.

    Args:
        tokens: words of the command line.
        flags: what the verb takes besides, for near matches.

    Raises:
        UserError: a word that belongs to no flag, a flag given twice with different values, or a value that is no
            UTF-8 text.
    """
    entries: dict[str, tuple[Any, str]] = {}
    i = 0
    while i < len(tokens):
        token = tokens[i]
        flag, equals, tail = token.partition("=")
        if not flag.startswith("--") or flag == "--":
            raise UserError(f"{token!r} belongs to no flag; parameters are given as --name value")
        value = _text(tail, flag)
        if not equals:
            following = tokens[i + 1] if i + 1 < len(tokens) else None
            if following is None or is_flag(following):
                value = Bare("true")
            else:
                value, i = _text(following, flag), i + 1
        key = flag.removeprefix("--").replace("-", "_").removesuffix(".name")
        if key in entries and entries[key][0] != value:
            raise UserError(f"{flag} is given twice, as {entries[key][0]!r} and as {value!r}; keep one")
        entries[key] = (value, f"CLI {flag}")
        i += 1
    return Layer("CLI", entries, tuple(flags))


def _text(value: str, where: str) -> Text:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise UserError(f"{where}: {value!r} is no UTF-8 text") from None
    return Text(value)
