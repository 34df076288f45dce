"""The words of verbs that take places (a run, a file) beside flags."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from core.cli.choose import Words, take_apart
from core.errors import UserError
from core.layers import is_flag
from core.names import near


def apart(words: list[str], switches: Mapping[str, str], options: Mapping[str, str]) -> tuple[list[str], Words]:
    """Places, and the rest taken apart. A place is a word that stands behind no flag that wants a value."""
    places: list[str] = []
    rest: list[str] = []
    for before, word in zip(["", *words], words, strict=False):
        wants = is_flag(before) and "=" not in before and before not in switches
        (rest if wants or is_flag(word) else places).append(word)
    return places, take_apart(rest, switches=switches, options=options)


def one_of(word: str, known: Collection[str], flag: str) -> str:
    """A word of a few.

    Raises:
        UserError: it is none of them.
    """
    if word not in known:
        raise UserError(f"{flag} {word}: choose one of {', '.join(known)}.{near(word, [*known])}")
    return word


def whole(text: str, flag: str, least: int, most: int | None = None) -> int:
    """A whole number.

    Raises:
        UserError: it is none, too small or too large.
    """
    if not text.isdecimal() or int(text) < least:
        raise UserError(f"{flag} takes a whole number of at least {least}, not {text!r}")
    if most is not None and int(text) > most:
        raise UserError(f"{flag} takes a whole number of at most {most:,}, not {text}")
    return int(text)
