"""Lengths of a run as users write them: seconds, and the step at which arms may be given up."""

from __future__ import annotations

import re

from core.errors import UserError

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def spell_seconds(seconds: float) -> str:
    """`45 s`, `12 min`, `3.5 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def seconds_of(text: str) -> float | None:
    """`90s`, `30m`, `2h` as seconds; None for an empty text.

    Raises:
        UserError: no length of time.
    """
    if not text:
        return None
    hit = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([smhd])\s*", text)
    if hit is None or float(hit[1]) == 0:
        raise UserError(f"run.timeout: {text!r} is no length of time; write 90s, 30m or 2h")
    return float(hit[1]) * _UNITS[hit[2]]


def rung_of(text: str) -> int:
    """`futility@200` as 200; 0 for `none`.

    Raises:
        UserError: neither.
    """
    if text in ("", "none"):
        return 0
    hit = re.fullmatch(r"futility@([1-9][0-9]{0,11})", text)
    if hit is None:
        raise UserError(f"run.stop: {text!r} is neither none nor futility@STEP, futility@200")
    return int(hit[1])
