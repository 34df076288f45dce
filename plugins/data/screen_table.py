"""A table of the cells of a perturbation screen, and what must hold before anything is learned from it.

n cells, G genes, P perturbations of a cell at most, C covariates, U units, k chosen rows.

A unit is one condition in one stratum: the cells that share their perturbations and all their covariates.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import final

import attrs
import numpy as np

from core.errors import UserError
from plugins.data.cells import BLOCK, Block, Rows, dense, ordered
from plugins.shared.condition import CONTROL, WITHIN, Members, names_of, spell

UNKNOWN = "unknown"
"""the level of a covariate where the input tells none"""
LEAST = 2
"""cells of a unit: one has no spread, and no mean worth the name"""
SHOWN = 5


@final
@attrs.frozen(kw_only=True)
class Unit:
    """One condition in one stratum."""

    name: str
    """`A+B`, with the levels of covariates that have several appended: `A+B|K562`"""
    members: Members
    levels: tuple[str, ...]
    """of every covariate, as texts"""

    @property
    def condition(self) -> str:
        return spell(self.members)


@final
@attrs.frozen(kw_only=True, eq=False)
class ScreenTable:
    """Cells of a screen as they were read. Perturbations, covariates and units are codes into their names."""

    values: Rows
    """(n, G); dense or CSR, counts or a logarithm"""
    genes: tuple[str, ...]
    unit_n: np.ndarray
    """int64 codes into `units`"""
    units: tuple[Unit, ...]
    """controls first, then by number of perturbations and by name"""
    raw_n: np.ndarray
    """labels as the input has them"""
    names_n: np.ndarray
    """names of the cells"""
    covariates: tuple[str, ...]
    matched: tuple[bool, ...]
    """by covariate: whether a cell is compared with control cells of its own level (cell type, batch; not dose)"""
    where: str
    """how a message calls the matrix"""
    more: str = "name columns of obs with `covariates`"
    """how a user gets covariates with several levels, as a clause"""

    @property
    def cells(self) -> int:
        return len(self.unit_n)

    @property
    def perturbations(self) -> tuple[str, ...]:
        """Names by code; code 0 is no perturbation."""
        return (CONTROL, *names_of(unit.members for unit in self.units))

    @property
    def together(self) -> int:
        """The most perturbations of a condition, at least two, so that doubles can be asked for."""
        return max(2, *(len(unit.members) for unit in self.units))

    def levels(self, place: int) -> tuple[str, ...]:
        """Names of a covariate's levels by code; `unknown` has the code -1 and no name."""
        return ordered({unit.levels[place] for unit in self.units} - {UNKNOWN})

    def stratum(self, unit: Unit) -> tuple[str, ...]:
        """What a unit shares with its control cells."""
        return tuple(level for level, on in zip(unit.levels, self.matched, strict=True) if on)

    def rows(self, index_k: np.ndarray) -> Block:
        """Rows as float32 (k, G), dense or CSR as they are stored."""
        return self.values[index_k].astype(np.float32, copy=False)

    def blocks(self, index_k: np.ndarray) -> Iterator[Block]:
        """Rows a block at a time, so that no whole matrix becomes dense."""
        size = max(1, BLOCK // max(1, len(self.genes)))
        for start in range(0, len(index_k), size):
            yield self.rows(index_k[start : start + size])

    def mean(self, index_k: np.ndarray) -> np.ndarray:
        """The mean of some rows, float64 (G,)."""
        total_G = np.zeros(len(self.genes))
        for block in self.blocks(index_k):
            total_G += np.asarray(block.sum(0, dtype=np.float64)).ravel()
        return total_G / max(1, len(index_k))

    def counts(self) -> dict[str, int]:
        """Cells of each unit."""
        size_U = np.bincount(self.unit_n, minlength=len(self.units))
        return {unit.name: int(size) for unit, size in zip(self.units, size_U, strict=True)}

    def content(self) -> str:
        """SHA-256 over every value and name."""
        units = [[unit.name, unit.members, unit.levels] for unit in self.units]
        digest = hashlib.sha256(json.dumps([units, self.genes, self.covariates, self.matched]).encode())
        digest.update(np.ascontiguousarray(self.unit_n).tobytes())
        for block in self.blocks(np.arange(self.cells)):
            digest.update(dense(block).tobytes())
        return digest.hexdigest()

    def check(self) -> None:
        """Refuse what no model of perturbations can use.

        Raises:
            UserError: no cell or gene, a gene twice, no control cells or none of a stratum, no perturbation, or units
                of a single cell.
        """
        if not self.cells or not self.genes:
            raise UserError(f"{self.where} is empty ({self.cells} cells x {len(self.genes)} genes)")
        seen: set[str] = set()
        twice = [gene for gene in self.genes if gene in seen or seen.add(gene)]  # type: ignore[func-returns-value]
        if twice:
            raise UserError(
                f"{self.where} names {len(twice)} gene(s) more than once, the first is {twice[0]!r}: sum or rename "
                "them (adata.var_names_make_unique()) and save the file again"
            )
        names = [unit.name for unit in self.units]
        if len(set(names)) < len(names):
            raise UserError(
                f"{self.where}: levels of `covariates` hold {WITHIN!r}, by which units are named: rename them"
            )
        self._check_controls()
        few = [name for name, size in self.counts().items() if size < LEAST]
        if few:
            raise UserError(
                f"{self.where}: {len(few)} condition(s) have a single cell, which shows no spread ({some(few)}): "
                "remove them, name fewer `covariates`, or set `few` = 'drop' to leave them out"
            )

    def _check_controls(self) -> None:
        controls = {self.stratum(unit) for unit in self.units if not unit.members}
        if not controls:
            found = some([unit.condition for unit in self.units])
            raise UserError(
                f"{self.where}: no cell is a control; conditions are {found}. Name the labels of control cells with "
                "`control`, or another column with `condition`"
            )
        if all(not unit.members for unit in self.units):
            raise UserError(f"{self.where}: every cell is a control, so there is no perturbation to learn")
        bare = sorted(
            {WITHIN.join(self.stratum(u)) for u in self.units if u.members and self.stratum(u) not in controls}
        )
        if bare:
            kinds = ", ".join(name for name, on in zip(self.covariates, self.matched, strict=True) if on)
            raise UserError(
                f"{self.where}: there are no control cells of {kinds} = {some(bare)}, so nothing can be compared "
                "there: remove these cells, or name fewer `covariates`"
            )


def some(names: list[str]) -> str:
    """A few names, then how many more."""
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def build_units(members_n: list[Members], level_nC: list[tuple[str, ...]]) -> tuple[np.ndarray, tuple[Unit, ...]]:
    """Units of cells, and each cell's code.

    Args:
        members_n: of each cell.
        level_nC: levels of its covariates.
    """
    pairs = list(zip(members_n, level_nC, strict=True))
    distinct = set(pairs)
    several = [
        len({levels[place] for _, levels in distinct}) > 1 for place in range(len(level_nC[0]) if level_nC else 0)
    ]

    def key(pair: tuple[Members, tuple[str, ...]]) -> tuple:
        return (len(pair[0]), pair[0], pair[1])

    chosen = sorted(distinct, key=key)
    units = []
    for members, levels in chosen:
        shown = [level for level, on in zip(levels, several, strict=True) if on]
        units.append(Unit(name=WITHIN.join([spell(members), *shown]), members=members, levels=levels))
    place = {pair: code for code, pair in enumerate(chosen)}
    return np.array([place[pair] for pair in pairs], np.int64), tuple(units)


def without_few(unit_n: np.ndarray, units: tuple[Unit, ...]) -> tuple[np.ndarray, list[str]]:
    """Rows of cells in units of at least `LEAST` cells, and the names of the other units."""
    size_U = np.bincount(unit_n, minlength=len(units))
    return np.flatnonzero(size_U[unit_n] >= LEAST), [units[u].name for u in np.flatnonzero(size_U < LEAST)]


def facts_of(table: ScreenTable) -> Mapping[str, int]:
    """How many conditions of each size there are."""
    sizes = [len(members) for members in {unit.members for unit in table.units}]
    return {
        "singles": sizes.count(1),
        "doubles": sizes.count(2),
        "larger": sum(size > 2 for size in sizes),
        "control_cells": sum(
            size for unit, size in zip(table.units, table.counts().values(), strict=True) if not unit.members
        ),
    }
