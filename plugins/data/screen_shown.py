"""A table of another file's cells on the scale and the genes of a run, and which of them an item is made from.

n cells, G genes of the run, P perturbations at most, C covariates, k chosen rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, final

import attrs
import numpy as np

from core.errors import UserError
from core.names import near
from core.train.streams import stream_seed
from plugins.data.anndata_file import AnnDataFile
from plugins.data.cells import BLOCK, dense
from plugins.data.screen_asked import Request
from plugins.data.screen_prepare import ScreenScale, check_scale, survey
from plugins.data.screen_read import CONDITION, ScreenKeys, Told, levels_of, read_obs, table_of
from plugins.data.screen_table import UNKNOWN, ScreenTable, some
from plugins.shared.condition import CONTROL, WITHIN, Labels, Members, known, spell

MOST_VALUES = 2**31
"""of cells to make times genes: 8 GiB"""


@final
@attrs.frozen(kw_only=True)
class Part:
    """One unit of items: cells to predict, or cells of the file."""

    name: str
    label: str
    members: Members
    levels: tuple[str, ...]
    rows: np.ndarray | None
    """rows of the file to embed; None where cells are to be made"""
    control: np.ndarray
    """row of the control cell beside each item"""


@final
class Shown:
    """A table of another file on the scale and the genes of a run."""

    def __init__(self, table: ScreenTable, preparation: Mapping[str, Any], notes: list[str]) -> None:
        self.table = table
        self.genes = tuple(preparation["genes"])
        self.covariates = tuple(preparation["covariates"])
        self._told = preparation
        self._scale = ScreenScale(
            transform=preparation["transform"], reason="as the training cells", target_sum=preparation["target_sum"]
        )
        check_scale(table.where, self._scale.transform, survey(table, np.arange(table.cells)), trained=True)
        column = {gene: i for i, gene in enumerate(table.genes)}
        self._shared_G = np.array([gene in column for gene in self.genes])
        self._column = np.array([column[gene] for gene in self.genes if gene in column], np.int64)
        self._check_genes(notes)
        self._place = {name: code for code, name in enumerate(preparation["perturbations"])}
        self.controls: dict[tuple[str, ...], np.ndarray] = {}
        for code, unit in enumerate(table.units):
            if not unit.members:
                stratum = table.stratum(unit)
                rows = np.flatnonzero(table.unit_n == code)
                self.controls[stratum] = np.sort(np.concatenate([self.controls.get(stratum, rows[:0]), rows]))
        if not self.controls:
            raise UserError(
                f"{table.where}: no cell is a control, and a prediction starts from control cells; conditions are "
                f"{some([unit.condition for unit in table.units])}. Name the labels of control cells with "
                "--data.control"
            )
        for c, name in enumerate(self.covariates):
            strange = sorted({unit.levels[c] for unit in table.units} - {*preparation["covariates"][name], UNKNOWN})
            if strange:
                notes.append(f"{name} {some(strange)} was not in training and is taken as unknown.")

    def _check_genes(self, notes: list[str]) -> None:
        table, missing = self.table, [g for g, on in zip(self.genes, self._shared_G, strict=True) if not on]
        if not self._shared_G.any():
            raise UserError(
                f"{table.where} has none of the {len(self.genes)} genes of the run ({some([*self.genes])}; it has "
                f"{some([*table.genes]) or 'none'}): name genes alike (var_names), and mind symbols against identifiers"
            )
        if missing:
            notes.append(
                f"{len(missing)} of the {len(self.genes)} genes of the run are not in {table.where} and are taken at "
                f"their training mean: {some(missing)}."
            )
        if len(table.genes) > len(self._column):
            notes.append(
                f"{len(table.genes) - len(self._column)} genes of {table.where} are not in the run and not predicted."
            )

    def expression(self, rows: np.ndarray) -> np.ndarray:
        """Rows in model units, float32 (k, G)."""
        out_kG = np.tile(np.asarray(self._told["mean"], np.float32), (len(rows), 1))
        out_kG[:, self._shared_G] = dense(self._scale.apply(self.table.rows(rows)))[:, self._column]
        return out_kG

    def level(self, part: Part) -> np.ndarray:
        """The mean of a unit's control cells in model units, float32 (G,)."""
        pool = self.pool(part)
        step = max(1, BLOCK // len(self.genes))
        blocks = (self.expression(pool[i : i + step]) for i in range(0, len(pool), step))
        return (sum(block.sum(0, dtype=np.float64) for block in blocks) / len(pool)).astype(np.float32)

    def codes(self, part: Part) -> tuple[np.ndarray, np.ndarray]:
        """Codes of a unit's perturbations (P,) and covariates (C,)."""
        member_P = np.zeros(self._told["together"], np.int64)
        member_P[: len(part.members)] = sorted(self._place[member] for member in part.members)
        told = self._told["covariates"]
        level_C = [told[n].index(v) if v in told[n] else -1 for n, v in zip(self.covariates, part.levels, strict=True)]
        return member_P, np.array(level_C, np.int64)

    def pool(self, part: Part) -> np.ndarray:
        """Rows of the control cells that a unit's were drawn from."""
        return self.controls[tuple(v for v, on in zip(part.levels, self.table.matched, strict=True) if on)]

    def own(self, names: Collection[str], together: int) -> list[Part]:
        """The cells of the file, by unit."""
        parts = []
        for code, unit in enumerate(self.table.units):
            _fits(unit.members, names, together, self.table.where)
            rows = np.flatnonzero(self.table.unit_n == code)
            pool = self._pool(self.table.stratum(unit), unit.name)
            control = _drawn(pool, len(rows), unit.name)
            parts.append(
                Part(
                    name=unit.name,
                    label=unit.condition,
                    members=unit.members,
                    levels=unit.levels,
                    rows=rows,
                    control=control,
                )
            )
        return parts

    def present(self, names: Collection[str], together: int) -> list[Request]:
        """The perturbed conditions of the file, each in the strata in which it is there."""
        found = []
        for code, unit in enumerate(self.table.units):
            if unit.members:
                _fits(unit.members, names, together, self.table.where)
                label = str(self.table.raw_n[np.argmax(self.table.unit_n == code)])
                levels = dict(zip(self.covariates, unit.levels, strict=True))
                found.append(Request(label, unit.members, levels, 0, self.table.where))
        if not found:
            raise UserError(
                f"{self.table.where} holds control cells only, so it does not say what to predict: name conditions "
                "with --data.asked.conditions A+B,C, or give a list of conditions (.csv) in its place"
            )
        return found

    def wanted(self, asked: list[Request], cells: int) -> list[Part]:
        """Cells to make, by unit."""
        parts: list[Part] = []
        several = len(self.controls) > 1 or not all(self.table.matched)
        for one in asked:
            matched = [n for n, on in zip(self.covariates, self.table.matched, strict=True) if on]
            fitting = [
                s for s in self.controls if all(one.levels.get(n, v) == v for n, v in zip(matched, s, strict=True))
            ]
            if not fitting:
                have = "; ".join(sorted(WITHIN.join(stratum) for stratum in self.controls))
                told = ", ".join(f"{n} = {one.levels[n]}" for n in matched if n in one.levels)
                raise UserError(
                    f"{one.who}: {one.label!r}: {self.table.where} has no control cells of {told}; there are those "
                    f"of {have}"
                )
            for stratum in fitting:
                of = {**one.levels, **dict(zip(matched, stratum, strict=True))}
                levels = tuple(of.get(name, UNKNOWN) for name in self.covariates)
                name = WITHIN.join([spell(one.members), *(levels if several else ())])
                if any(part.name == name for part in parts):
                    raise UserError(f"{one.who}: {one.label!r}: {name} is asked for twice: name it once")
                pool = self._pool(stratum, one.label)
                here = [size for unit, size in zip(self.table.units, self.table.counts().values(), strict=True)
                        if unit.members == one.members and unit.levels == levels]  # fmt: skip
                count = one.cells or cells or (here[0] if here and one.members else len(pool))
                values = (sum(len(part.control) for part in parts) + count) * len(self.genes)
                if values > MOST_VALUES:
                    raise UserError(
                        f"{one.who}: {one.label!r}: {count:,} cells of it make {values:,} values in all, and "
                        f"{MOST_VALUES:,} is the most that is held in memory: ask for fewer cells, or in several calls"
                    )
                control = _drawn(pool, count, name)
                parts.append(
                    Part(name=name, label=one.label, members=one.members, levels=levels, rows=None, control=control)
                )
        return parts

    def _pool(self, stratum: tuple[str, ...], who: str) -> np.ndarray:
        if stratum not in self.controls:
            raise UserError(
                f"{self.table.where}: there are no control cells of {WITHIN.join(stratum)} to set {who} against"
            )
        return self.controls[stratum]


def file_table(
    path: Path,
    preparation: Mapping[str, Any],
    keys: ScreenKeys,
    labels: Labels,
    notes: list[str],
    *,
    conditions: bool = True,
) -> ScreenTable:
    """Cells of a file with the covariates of the run; all are control cells if no column names conditions.

    Args:
        conditions: whether the file's conditions are read; all cells are control cells where they are not.

    Raises:
        UserError: no such file, no cell, or one of the run's genes more than once.
    """
    if not path.is_file():
        beside = sorted(p.name for p in path.parent.glob("*.h5ad")) if path.parent.is_dir() else []
        raise UserError(
            f"{str(path)!r}: there is no such file; give an .h5ad file or a list of "
            f"conditions.{near(path.name, beside)}"
        )
    names = tuple(preparation["covariates"])
    file = AnnDataFile(path)
    try:
        cells = file.shape[0]
        if not cells:
            raise UserError(f"{file.name} holds no cell")
        counts = Counter(file.genes)
        twice = [gene for gene in preparation["genes"] if counts[gene] > 1]
        if twice:
            raise UserError(
                f"{file.name} names gene {twice[0]!r} more than once: adata.var_names_make_unique() it first"
            )
        absent = [name for name in names if name not in file.obs]
        if absent:
            notes.append(f"{file.name} has no column {some(absent)} in obs, so it is taken as unknown.")
        unread: tuple[np.ndarray, list[Members]] = np.array([CONTROL] * cells, dtype=object), [()] * cells
        if not conditions:
            raw_n, members_n = unread
        elif keys.condition or any(name in file.obs for name in CONDITION):
            read = read_obs(file, attrs.evolve(keys, covariates=("none",), dose=""), labels)
            raw_n, members_n = read.raw_n, read.members_n
        else:
            notes.append(f"{file.name} names no conditions, so all its cells are taken as control cells.")
            raw_n, members_n = unread
        columns = [[UNKNOWN] * cells if name in absent else levels_of(file, name) for name in names]
        told = Told(
            members_n=members_n,
            raw_n=raw_n,
            level_nC=list(zip(*columns, strict=True)) if columns else [()] * cells,
            covariates=names,
            matched=tuple(preparation["matched"]),
            said={},
        )
        return table_of(file, told, keys, drop=False)[0]
    finally:
        file.close()


def _fits(members: Members, names: Collection[str], together: int, who: str) -> None:
    known(members, names, who)
    if len(members) > together:
        raise UserError(
            f"{who}: {spell(members)!r} joins more perturbations than the {together} that the run was trained on"
        )


def _drawn(pool: np.ndarray, count: int, name: str) -> np.ndarray:
    """Control cells in whole rounds through the pool and a part of one more, so that all are used alike."""
    rng = np.random.default_rng(stream_seed(f"pairs:{name}", 0))
    rounds = [rng.permutation(pool) for _ in range(-(-count // len(pool)))]
    return np.concatenate(rounds)[:count]
