"""Which cells of prepared sections are trained on, watched, and judged by, and what each way leaks.

n cells, P axes of space.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping
from typing import Literal, final

import attrs
import numpy as np

from core.errors import UserError
from core.names import near
from core.params import knob, params
from plugins.data.tiles import blocks

SPLITS = ("train", "valid", "test")
LEAST = 2
"""cells of a section in a split that takes a random part of it"""
LEAST_BLOCK = 8
"""cells that a spatial block should have; a section of fewer is one block"""


@final
@params
class Ratios:
    """How cells are divided."""

    by: Literal["section", "block", "cell"] = knob(
        "section", "what a split takes whole: sections, spatial blocks of sections, or single cells"
    )
    valid: float = knob(0.1, "share of the sections, blocks or cells that is watched during training", gt=0, lt=1)
    test: float = knob(0.1, "share that judges", gt=0, lt=1)
    hold: str = knob("", "names of sections held out as test, with commas between; instead of a drawn share")
    blocks: int = knob(16, "spatial blocks that a section is cut into", ge=2)
    seed: int = knob(0, "seed of the draw", ge=0)


@final
@attrs.frozen
class Divided:
    """A code for each cell of each section (index into `SPLITS`), and what a reader has to know."""

    codes: Mapping[str, np.ndarray]
    sentence: str


def divide(cells: Mapping[str, int], places: Callable[[str], tuple[np.ndarray, np.ndarray]], asked: Ratios) -> Divided:
    """Divide sections; a function of names, positions and seed, not of any order.

    Args:
        cells: how many cells each section has.
        places: positions (n, P) and names (n,) of a section's cells; asked only where a section is cut.
        asked: how to divide.

    Raises:
        UserError: shares that leave nothing to train on, a split that would be empty, or an unknown section.
    """
    check(cells, asked)
    made = {"section": _by_section, "block": _by_block, "cell": _by_cell}[asked.by](cells, places, asked)
    counts = np.sum([np.bincount(code_n, minlength=3) for code_n in made.codes.values()], axis=0)
    empty = [name for name, count in zip(SPLITS, counts, strict=True) if count == 0]
    if empty:
        raise UserError(
            f"the split {empty[0]!r} would be empty: raise its share, or cut finer "
            "(--by block --blocks N, or --by cell)"
        )
    return made


def check(sections: Collection[str], asked: Ratios) -> None:
    """Refuse what can be seen to fail from the names of sections alone.

    Raises:
        UserError: shares that leave nothing, a section that there is not, or sections too few to hold any out.
    """
    if asked.valid + asked.test >= 1:
        raise UserError(
            f"--valid {asked.valid:g} and --test {asked.test:g} leave nothing to train on: their sum is to be < 1"
        )
    if asked.hold and asked.by != "section":
        raise UserError(f"--hold names sections, and --by {asked.by} cuts them: leave one of the two out")
    held = _held(sections, asked)
    if asked.by == "section" and len(sections) < 2:
        raise UserError(
            "there is one section, so that none can be held out whole: give --by block, which holds out parts of it"
        )
    if len(held) == len(sections):
        raise UserError("--hold leaves no section to train on: name fewer")


def _held(sections: Collection[str], asked: Ratios) -> list[str]:
    """The sections that `--hold` names, in full or by what stands behind the file and the data set."""
    held = []
    for word in filter(None, (word.strip() for word in asked.hold.split(","))):
        hits = [name for name in sections if word in (name, name.rpartition(":")[2], name.rpartition("/")[2])]
        if len(hits) != 1:
            many = f"{len(hits)} sections are" if hits else "no section is"
            raise UserError(f"--hold: {many} called {word!r}: there are {', '.join(sections)}.{near(word, sections)}")
        held += hits
    return held


def _by_section(
    cells: Mapping[str, int], places: Callable[[str], tuple[np.ndarray, np.ndarray]], asked: Ratios
) -> Divided:
    names = sorted(cells, key=lambda name: (draw("section", asked.seed, name), name))
    test = _held(cells, asked) or names[: max(1, round(asked.test * len(names)))]
    rest = [name for name in names if name not in test]
    told = f"test holds out whole sections ({_listed(test)}), no cell of which is trained on"
    if len(rest) == 1:
        # With one section to train on, validation can only be a part of it.
        name = rest[0]
        inner = _by_block({name: cells[name]}, places, asked, test=False)
        codes = {n: np.full(cells[n], 2) for n in test} | dict(inner.codes)
        return Divided(
            codes,
            f"{told}; valid is spatial blocks of {name}, so it leaks: cells along their edges have neighbours in train",
        )
    valid = rest[: max(1, round(asked.valid * len(names)))]
    if len(valid) == len(rest):
        raise UserError(
            f"--valid {asked.valid:g} and --test {asked.test:g} leave none of the {len(names)} sections to train on: "
            "lower them"
        )
    where = dict.fromkeys(test, 2) | dict.fromkeys(valid, 1)
    return Divided(
        {name: np.full(count, where.get(name, 0)) for name, count in cells.items()},
        f"{told}; valid likewise ({_listed(valid)}); sections of one tissue still resemble each other",
    )


def _by_block(
    cells: Mapping[str, int], places: Callable[[str], tuple[np.ndarray, np.ndarray]], asked: Ratios, *,
    test: bool = True,
) -> Divided:  # fmt: skip
    code_of = {}
    for name in sorted(cells):
        count = max(1, min(asked.blocks, cells[name] // LEAST_BLOCK))
        code_of[name] = blocks(places(name)[0], count)
    every = [(name, block) for name, code_n in code_of.items() for block in range(int(code_n.max()) + 1)]
    every.sort(key=lambda each: (draw("block", asked.seed, *each), each))
    wanted = (max(1, round(asked.valid * len(every))), max(1, round(asked.test * len(every))) if test else 0)
    if sum(wanted) >= len(every):
        raise UserError(
            f"the sections give {len(every)} spatial block(s), too few for {wanted[0]} valid and {wanted[1]} test "
            "beside at least one to train on: raise --blocks, or give --by cell"
        )
    valid, held = set(every[: wanted[0]]), set(every[wanted[0] : sum(wanted)])
    codes = {}
    for name, code_n in code_of.items():
        splits = [1 if (name, b) in valid else 2 if (name, b) in held else 0 for b in range(int(code_n.max()) + 1)]
        codes[name] = np.array(splits)[code_n]
    return Divided(
        codes,
        f"spatial blocks: {wanted[1]} of {len(every)} test, {wanted[0]} valid, each wholly in one split; this leaks at "
        "edges: a cell beside an edge of a test block has neighbours in train",
    )


def _by_cell(
    cells: Mapping[str, int], places: Callable[[str], tuple[np.ndarray, np.ndarray]], asked: Ratios
) -> Divided:
    codes = {}
    for section, count in cells.items():
        place_nP, name_n = places(section)
        # Ordered by place and name before the draw, so that shuffled rows move no cell to another split.
        rows = np.lexsort([np.argsort(np.argsort(name_n, kind="stable")), *place_nP.T])
        rows = rows[np.random.default_rng(draw("cell", asked.seed, section)).permutation(count)]
        sizes = [size if size >= LEAST else 0 for size in (round(asked.valid * count), round(asked.test * count))]
        codes[section] = np.zeros(count, np.int64)
        codes[section][rows[: sizes[0]]] = 1
        codes[section][rows[sizes[0] : sum(sizes)]] = 2
    return Divided(
        codes,
        f"each section is cut at random into {1 - asked.valid - asked.test:.0%} train, {asked.valid:.0%} valid and "
        f"{asked.test:.0%} test cells; this leaks: neighbours of test cells are in train",
    )


def draw(purpose: str, seed: int, *names: object) -> int:
    """63 bits keyed by SHA-256 of purpose, seed and names."""
    text = "\x1f".join(["division", purpose, str(seed), *map(str, names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def _listed(names: list[str]) -> str:
    return ", ".join(sorted(names))
