"""Why a command does not ask for the study that lies in a directory."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def difference(root: Path, there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """What a user would change to make two plans one, in words, and what to do instead."""
    for key in ("seeds", "blocks", "baseline", "axes"):
        if there[key] != here[key]:
            hint = "choose another directory with -o for a new study"
            if key == "seeds" and {*there["seeds"]} < {*here["seeds"]}:
                words = f"core ablate extend {shlex.quote(str(root))} --seeds {seeds_text(here['seeds'])}"
                hint = f'use "{words}", or -o for a new study'
            names = {"seeds": seeds_text, "blocks": _spell, "baseline": _spell, "axes": _spell}
            said = " and ".join(
                f"{whose} {names[key](doc[key])}"
                for whose, doc in (("the plan has", there), ("this command asks for", here))
            )
            return f"{key}: {said}; {hint}"
    old, new = ({(arm["system"], arm["label"]): arm["config"] for arm in doc["arms"]} for doc in (there, here))
    for name in sorted({*old, *new}):
        if old.get(name) != new.get(name):
            changed = [
                line for line in (new.get(name) or "").splitlines() if line not in (old.get(name) or "").splitlines()
            ]
            what = (
                f"is configured otherwise ({'; '.join(changed[:2])})"
                if name in old and name in new
                else ("is new" if name in new else "is no longer asked for")
            )
            return f"{name[1]} of {name[0]} {what}; choose another directory with -o for a new study"
    return "its data have changed since, or the pieces' code has another revision; choose -o for a new study"


def seeds_text(seeds: Sequence[int]) -> str:
    """Seeds as `--seeds` takes them, as short as can be: 6, 10:16, or 3,7,11."""
    first, count = seeds[0], len(seeds)
    if [*seeds] == [*range(first, first + count)]:
        return f"{first}:{first + count}" if first else str(count)
    return ",".join(map(str, seeds))


def _spell(value: Any) -> str:
    if isinstance(value, Mapping):
        return " ".join(f"{k}={_spell(v)}" for k, v in value.items())
    return ",".join(filter(None, map(_spell, value))) or "none" if isinstance(value, list) else str(value)
