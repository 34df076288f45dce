"""What a user asks to be predicted: a list of conditions, from words or from a file."""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import final

import attrs

from core.errors import UserError
from core.names import near
from core.params import knob, params
from plugins.shared.condition import CONTROL, WITHIN, Labels, Members, known

LISTS = (".csv", ".tsv", ".txt")
"""endings of files that list conditions"""
CONDITION, CELLS = "condition", "cells"
ASKED = "--data.asked.conditions"


@final
@params
class Asked:
    """What `core sample` is to predict."""

    conditions: tuple[str, ...] = knob(
        (),
        "conditions such as A+B, or A+B|K562 for one level of a covariate, or one file that lists them (.csv, .tsv, "
        ".txt); empty: those of the file given",
        identity=False,
    )
    cells: int = knob(
        0, "cells of each; 0: as many as the file has of it, else as many as it has control cells", ge=0, identity=False
    )


@final
@attrs.frozen
class Request:
    """One condition to predict."""

    label: str
    """as the user wrote it"""
    members: Members
    levels: Mapping[str, str]
    """of some covariates; every level that control cells have where one is not named"""
    cells: int
    """0: not said"""
    who: str
    """who asks: a flag, or a file and a line"""


def requests(
    texts: Sequence[str], labels: Labels, covariates: Collection[str], names: Collection[str], together: int
) -> list[Request]:
    """Conditions from words, or from the one file that is named.

    Args:
        covariates: of the run, in order.
        names: perturbations that the run knows.
        together: the most of a condition.

    Raises:
        UserError: a label that cannot be read, a perturbation that the run does not know, too many of them together,
            or a condition twice.
    """
    if len(texts) == 1 and texts[0].lower().endswith(LISTS):
        return read_list(Path(texts[0]), labels, covariates, names, together)
    return _checked([_request(text, labels, covariates, {}, 0, ASKED) for text in texts], names, together)


def read_list(
    path: Path, labels: Labels, covariates: Collection[str], names: Collection[str], together: int
) -> list[Request]:
    """Conditions of a file: one a line; or a table with a column `condition` and, if wanted, `cells` and covariates.

    Raises:
        UserError: see `requests`; also no such file, an empty one, or a column that means nothing.
    """
    try:
        text = path.expanduser().read_text("utf-8-sig")
    except FileNotFoundError:
        beside = sorted(p.name for p in path.parent.iterdir() if p.suffix in LISTS) if path.parent.is_dir() else []
        raise UserError(f"{str(path)!r}: there is no such file of conditions.{near(path.name, beside)}") from None
    except UnicodeDecodeError as error:
        raise UserError(_no_list(path, f"byte {error.start + 1:,} is no UTF-8")) from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error})") from None
    if "\0" in text:
        raise UserError(_no_list(path, f"character {text.index(chr(0)) + 1:,} is NUL"))
    reader = csv.reader(io.StringIO(text), delimiter=_delimiter(path, text))
    try:
        numbered = [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise UserError(f"{path.name}, line {reader.line_num}: {error}; give one condition a line") from None
    lines = [row for _, row in numbered]
    if not lines:
        raise UserError(f"{path.name} lists no condition: give one a line, or a table with a column {CONDITION!r}")
    head = [cell.strip() for cell in lines[0]]
    allowed = [CONDITION, CELLS, *covariates]
    if CONDITION in head:
        if "" in head:
            raise UserError(f"{path.name}: column {head.index('') + 1} has no name: save the table without its index")
        if len(set(head)) < len(head):
            raise UserError(f"{path.name} has two columns of one name among {', '.join(head)}: keep one of each")
        strange = [name for name in head if name not in allowed]
        if strange:
            raise UserError(
                f"{path.name}: no use for column {strange[0]!r}: there may be "
                f"{', '.join(allowed)}.{near(strange[0], allowed)}"
            )
        body = lines[1:]
    elif len(head) == 1:
        head, body = [CONDITION], lines
    else:
        raise UserError(
            f"{path.name} has {len(head)} columns and none is called {CONDITION!r}.{near(CONDITION, head)} "
            f"Give one condition a line, or a table whose first line names its columns, {CONDITION} among them"
        )
    found = []
    for number, row in numbered[len(lines) - len(body) :]:
        who = f"{path.name}, line {number}"
        if len(row) != len(head):
            raise UserError(f"{who}: {len(row)} values under {len(head)} columns")
        cells = dict(zip(head, (cell.strip() for cell in row), strict=True))
        told = cells.pop(CELLS, "") or "0"
        # A column with gaps is one of floats for many tools, which then write 50 as 50.0.
        count = told.removesuffix(".0")
        if not count.isdecimal():
            raise UserError(f"{who}: {CELLS} = {told!r} is no whole number from 0 on")
        label = cells.pop(CONDITION)
        given = {name: level for name, level in cells.items() if level}
        found.append(_request(label, labels, covariates, given, int(count), who))
    if not found:
        raise UserError(f"{path.name} lists no condition below its column names")
    return _checked(found, names, together)


def _no_list(path: Path, reason: str) -> str:
    return (
        f"{path} is no list of conditions but a binary file, or a text in another encoding ({reason}): give a text in "
        f"UTF-8 with one condition a line, or a table with a column {CONDITION!r}"
    )


def _delimiter(path: Path, text: str) -> str:
    """What stands between columns: a tab, a comma, or a semicolon where the column names are so separated."""
    first = text.partition("\n")[0]
    if path.suffix.lower() == ".tsv" or "\t" in first:
        return "\t"
    names = [name.strip().strip('"') for name in first.split(";")]
    return ";" if len(names) > 1 and CONDITION in names else ","


def _request(
    label: str, labels: Labels, covariates: Collection[str], given: Mapping[str, str], cells: int, who: str
) -> Request:
    head, *tail = [part.strip() for part in label.split(WITHIN)]
    if len(tail) > len(covariates):
        raise UserError(
            f"{who}: {label!r} names {len(tail)} covariate(s) behind {WITHIN}, and the run has {len(covariates)}"
        )
    try:
        members = labels.read(head)
    except ValueError as error:
        raise UserError(f"{who}: the condition {label!r} {error}") from None
    return Request(label, members, {**dict(zip(covariates, tail, strict=False)), **given}, cells, who)


def _checked(found: list[Request], names: Collection[str], together: int) -> list[Request]:
    seen: dict[tuple[Members, tuple[tuple[str, str], ...]], str] = {}
    for one in found:
        known(one.members, [name for name in names if name != CONTROL], one.who)
        if len(one.members) > together:
            raise UserError(
                f"{one.who}: {one.label!r} joins {len(one.members)} perturbations, and the run was trained on "
                f"{together} together at most"
            )
        key = (one.members, tuple(sorted(one.levels.items())))
        if key in seen:
            also = "" if seen[key] == one.label else f" (also as {seen[key]!r})"
            raise UserError(f"{one.who}: {one.label!r} is asked for twice{also}: name it once")
        seen[key] = one.label
    return found
