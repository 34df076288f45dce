"""How cells are divided into train, valid and test, and what each way leaks."""

from __future__ import annotations

from typing import Literal, final

import attrs
import numpy as np

from core.errors import UserError
from core.names import near
from core.params import knob, params
from core.train.streams import stream_seed
from plugins.data.cells import CellTable

WHOLE_VALID = 4
"""sections from which on validation also holds whole sections out"""
LEAST = 2
"""cells of a section in a split that takes part of it: one cell has no distance to another"""


@final
@params
class Cut:
    """Which cells are trained on, which are watched during training, which judge."""

    by: Literal["auto", "section", "cell"] = knob(
        "auto",
        "section: test sections are held out whole; cell: a random share of each section; auto: section where there "
        "are two or more, else cell",
        decides="split",
    )
    test: float = knob(
        0.2,
        "share of the sections (at least one) or cells held out as test",
        gt=0,
        lt=1,
        acts='section=""',
        decides="split",
    )
    valid: float = knob(0.1, "share of the sections or cells held out as valid", gt=0, lt=1, decides="split")
    section: str = knob(
        "", "name of the one section held out as test; empty: the last ones by name", acts="by!=cell", decides="split"
    )
    seed: int = knob(
        0, "seed of random shares; apart from a run's seed, so that all seeds share one test set", ge=0, decides="split"
    )


@final
@attrs.frozen
class Division:
    """The rows of each split in rising order, and a sentence for the reader."""

    rows: dict[str, np.ndarray]
    sentence: str


def divide(table: CellTable, knobs: Cut) -> Division:
    """Cut a table. The rows of `train`, `valid` and `test` are disjoint and together are all rows.

    Which cell goes where depends on its section's name, its position and the knobs, not on the order of rows.

    Raises:
        UserError: knobs that contradict each other or the data, or a section too small to be cut.
    """
    if knobs.test + knobs.valid >= 1:
        raise UserError(
            f"cut.test = {knobs.test:g} and cut.valid = {knobs.valid:g} leave nothing to train on: their sum is "
            "to be < 1"
        )
    count = len(table.sections)
    by = knobs.by if knobs.by != "auto" else ("section" if count > 1 else "cell")
    if by == "cell":
        if knobs.section:
            raise UserError(
                f"cut.section = {knobs.section!r} asks for a held-out section, but {table.where['section']} has one "
                "section only, which is cut by cell: leave cut.section empty"
            )
        return _by_cell(table, knobs)
    if count == 1:
        raise UserError(
            f"cut.by = 'section' needs two or more sections and {table.where['section']} has one, "
            f"{table.sections[0]!r}: set cut.by = 'cell', or name another column with `section`"
        )
    return _by_section(table, knobs)


def _by_cell(table: CellTable, knobs: Cut) -> Division:
    parts = [
        _shares(table, code, knobs, {"valid": knobs.valid, "test": knobs.test}) for code in range(len(table.sections))
    ]
    rest = 1 - knobs.valid - knobs.test
    return Division(
        {name: np.sort(np.concatenate([part[name] for part in parts])) for name in ("train", "valid", "test")},
        f"each section is cut at random into {rest:.0%} train, {knobs.valid:.0%} valid and {knobs.test:.0%} test "
        "cells; this leaks: neighbours of test cells are in train",
    )


def _by_section(table: CellTable, knobs: Cut) -> Division:
    names = list(table.sections)
    if knobs.section and knobs.section not in names:
        raise UserError(
            f"cut.section = {knobs.section!r} is no section of {table.where['section']}: there are {', '.join(names)}."
            f"{near(knobs.section, names)}"
        )
    share = max(1, round(knobs.test * len(names)))
    test = [knobs.section] if knobs.section else names[-share:]
    rest = [name for name in names if name not in test]
    if len(names) >= WHOLE_VALID:
        valid = rest[-max(1, round(knobs.valid * len(names))) :]
        train = [name for name in rest if name not in valid]
    else:
        valid, train = [], rest
    if not train:
        raise UserError(
            f"cut.test = {knobs.test:g} and cut.valid = {knobs.valid:g} leave none of the {len(names)} sections "
            "to train on: lower them"
        )
    held = {
        name: np.flatnonzero(np.isin(table.section_n, [names.index(section) for section in sections]))
        for name, sections in (("train", train), ("valid", valid), ("test", test))
    }
    sentence = f"test holds out whole: {', '.join(test)}; no cell of it is trained on"
    if valid:
        return Division(
            held,
            f"{sentence}; valid holds out whole: {', '.join(valid)}; sections of one tissue still resemble each other",
        )
    parts = [_shares(table, names.index(section), knobs, {"valid": knobs.valid}) for section in train]
    held |= {name: np.sort(np.concatenate([part[name] for part in parts])) for name in ("train", "valid")}
    return Division(
        held,
        f"{sentence}; valid is a random {knobs.valid:.0%} of the cells of {', '.join(train)}, so it leaks: neighbours "
        "of valid cells are in train",
    )


def _shares(table: CellTable, code: int, knobs: Cut, shares: dict[str, float]) -> dict[str, np.ndarray]:
    """Random parts of one section; what no share takes is `train`."""
    section = table.sections[code]
    rows = np.flatnonzero(table.section_n == code)
    sizes = {name: max(LEAST, round(share * len(rows))) for name, share in shares.items()}
    if len(rows) < LEAST + sum(sizes.values()):
        asked = " and ".join(f"{size} {name}" for name, size in sizes.items())
        raise UserError(
            f"{table.where['section']}: section {section!r} has {len(rows)} cells, too few for {asked} cells "
            f"beside at least {LEAST} to train on: remove the section, or lower cut.test and cut.valid"
        )
    # Ordered by place before the draw, so that shuffling the rows of a file moves no cell to another split.
    rows = rows[np.lexsort(table.position_nP[rows].T)]
    rows = rows[np.random.default_rng(stream_seed(f"split:{section}", knobs.seed)).permutation(len(rows))]
    parts = {}
    for name, size in sizes.items():
        parts[name], rows = rows[:size], rows[size:]
    return {"train": rows, **parts}
