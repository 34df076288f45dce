"""Numbers, reasons and values in plain English, for the terminal and for reports; imports nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def plural(count: int, word: str) -> str:
    """`1 cell`, `2 cells`, `1,000 cells`; the word is one whose plural ends in s."""
    return f"{count:,} {word}{'' if count == 1 else 's'}"


def reason(text: str) -> str:
    """A reason as it stands behind "because": its own "because", if it begins with one, is left out."""
    text = text.strip()
    head, _, rest = text.partition(" ")
    return rest.strip() if head.lower().rstrip(",:") == "because" and rest.strip() else text


def spell(value: Any) -> str:
    """A value in words rather than in Python's own notation.

    `true`, `none`; lists as `a, b`; tables as `train 54, test 6`, and tables of lists or tables as `a: x, y; b: z`.
    What is empty is `none`.
    """
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        deep = any(isinstance(inner, (Mapping, list, tuple)) for inner in value.values())
        parts = (f"{key}{':' if deep else ''} {spell(inner)}" for key, inner in value.items())
        return ("; " if deep else ", ").join(parts) or "none"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(spell, value)) or "none"
    if value is None or value == "":
        return "none"
    return f"{value:,}" if isinstance(value, int) else str(value)
