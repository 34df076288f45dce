"""`core inspect`: what a trained model is of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from core.cli.place import apart
from core.errors import UserError

HELP = """usage: core inspect RUN

What the model of RUN (the directory of a finished run, or a folder of `core export`) is of: system, data, genes and
other names in their order, split, statistics, size, versions, files. Nothing is loaded but texts; files are compared
with their SHA-256. Neither the data nor the packages of its pieces need be there."""

SWITCHES = {"-h": "help", "--help": "help"}
SHOWN = 6
"""names that a line lists"""


def main(words: list[str]) -> int:
    places, said = apart(words, SWITCHES, {})
    if "help" in said.switches:
        print(HELP)
        return 0
    if len(places) != 1 or said.overrides:
        raise UserError("`core inspect` takes one run directory and no parameters; usage: core inspect RUN")
    from core.train.seal import check_seal
    from core.train.trained import finished, read_preparation

    run = Path(places[0])
    record = finished(run)
    prepared = read_preparation(run)
    check_seal(run, record)
    card, made = prepared.card, record.get("environment", {})
    rows = {
        "system": f"{record['system']}, seed {record['seed']}, {record.get('steps', '?')} steps, digest "
        f"{record['digest'][:16]}",
        "parameters": f"{record['parameters']:,}",
        "data": f"{card.name}, {', '.join(f'{count:,} {name}' for name, count in card.sizes.items())}",
        "cells": ", ".join(f"{count:,} {name}" for name, count in card.splits.items()),
        **{key: text for key, value in prepared.told.items() if (text := _told(value))},
        "made": f"{record['started']}, python {made.get('python')}, torch {made.get('torch')}, "
        + ", ".join(f"{name} {number}" for name, number in made.get("distributions", {}).items()),
        "files": f"{len(record['files'])}, each with the SHA-256 that run.json holds"
        if "files" in record
        else "no SHA-256 was written down: of an earlier version",
    }
    wide = max(map(len, rows))
    print("\n".join(f"{name:{wide}}  {text}" for name, text in rows.items()))
    return 0


def _told(value: Any, inside: bool = False) -> str:
    """A value of a preparation in a line: how many, and the first of them."""
    if isinstance(value, Mapping):
        if inside:
            return f"of {len(value):,}"
        return "; ".join(f"{key} {text}" for key, inner in value.items() if (text := _told(inner, True)))
    if isinstance(value, Sequence) and not isinstance(value, str):
        first = ", ".join(f"{one:.4g}" if isinstance(one, float) else str(one) for one in value[:SHOWN])
        return f"{len(value):,}: {first}{', ...' if len(value) > SHOWN else ''}" if value else ""
    return "" if value is None else str(value)
