"""Split files: which conditions of a screen are trained on, as JSON that others can read, check and share."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from core.errors import UserError
from core.files import write_json
from core.names import near
from plugins.data.screen_cut import SPLITS, Division, made, split_by_name
from plugins.data.screen_table import ScreenTable, some

SCHEMA = 1
MADE = "cellcore perturbation split"


def fingerprint(table: ScreenTable) -> dict[str, Any]:
    """What a split depends on of its data: shape, genes, and the cells of each condition."""
    return {
        "cells": table.cells,
        "genes": len(table.genes),
        "genes_sha256": hashlib.sha256("\n".join(sorted(table.genes)).encode()).hexdigest(),
        "conditions": table.counts(),
    }


def document(division: Division, table: ScreenTable) -> dict[str, Any]:
    """A division as plain JSON."""
    return {
        "made": MADE,
        "schema": SCHEMA,
        "scheme": division.scheme,
        "seed": division.seed,
        "says": division.sentence,
        "data": fingerprint(table),
        **{split: list(division.units[split]) for split in SPLITS},
        "categories": dict(division.categories),
    }


def write_split(path: Path, said: Mapping[str, Any]) -> None:
    """Write what `document` says, whole or not at all.

    Raises:
        UserError: the path cannot be written.
    """
    try:
        write_json(path, dict(said))
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror or error})") from None


def read_split(name: str, table: ScreenTable) -> Division:
    """Read a split file for a screen.

    A file of one's own needs `test` and `valid` only, lists of conditions; what neither names is trained on, unless
    there is a list `train`. Where it tells the data that it was made for, these must be the data.

    Raises:
        UserError: no such file, not a split, other data, a condition that is not there or that is in two lists.
    """
    path = Path(name).expanduser()
    who = f"split file {path.name}"
    try:
        said = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        beside = sorted(p.name for p in path.parent.glob("*.json")) if path.parent.is_dir() else []
        raise UserError(f"cut.file = {name!r}: there is no such file.{near(path.name, beside)}") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{who} cannot be read as JSON ({' '.join(str(error).split())[:120]})") from None
    if not isinstance(said, dict) or said.get("schema", SCHEMA) != SCHEMA:
        kind = f"schema {said.get('schema')!r}" if isinstance(said, dict) else type(said).__name__
        raise UserError(f"{who} is of {kind}, and this version reads a table of schema {SCHEMA}")
    lists = {split: said.get(split, []) for split in SPLITS}
    if "val" in said and "valid" not in said:
        lists["valid"] = said["val"]
    for split, names in lists.items():
        if not isinstance(names, list) or not all(isinstance(one, str) for one in names):
            raise UserError(f'{who}: {split} is to be a list of conditions such as "A+B"')
    _check_data(said.get("data"), table, who)
    seed = said.get("seed", 0)
    return made(
        table,
        str(said.get("scheme", "file")),
        seed if isinstance(seed, int) else 0,
        split_by_name(table, lists, who),
        f"read from {path.name}; {said.get('says') or 'its lists'}",
    )


def _check_data(told: Any, table: ScreenTable, who: str) -> None:
    if told is None:
        return
    own = fingerprint(table)
    if told == own:
        return
    theirs: Mapping[str, Any] = told if isinstance(told, dict) else {}
    differs = [key for key in own if theirs.get(key) != own[key]]
    there, here = theirs.get("conditions"), own["conditions"]
    detail = ""
    if isinstance(there, dict) and "conditions" in differs:
        changed = sorted({n for n in {**there, **here} if there.get(n) != here.get(n)})
        detail = f"; cells differ in {some(changed)}"
    raise UserError(
        f"{who} was made for other data (its {', '.join(differs)} differ{detail}): make it anew with `core data "
        "split`, or remove its entry `data` to use its lists by name"
    )
