"""What the columns of an AnnData file say of the cells of a screen: conditions and covariates.

n cells, C covariates.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, final

import attrs
import numpy as np

from core.errors import UserError
from core.names import near
from plugins.data.anndata_file import AnnDataFile
from plugins.data.screen_table import UNKNOWN, ScreenTable, build_units, some, without_few
from plugins.shared.condition import Labels, Members

CONDITION = ("condition", "perturbation", "perturbation_name", "perturbations", "target_gene", "gene", "treatment")
"""columns of `obs` that are looked for where none is named, the first that is there"""
CELL_TYPE = ("cell_type", "cell_line", "celltype")


@final
@attrs.frozen(kw_only=True)
class ScreenKeys:
    """Where a file holds what; the knobs of `perturb_h5ad` of the same names tell more."""

    condition: str = ""
    covariates: tuple[str, ...] = ()
    """`("none",)`: no column"""
    dose: str = ""
    layer: str = ""

    @property
    def matrix(self) -> str:
        return f"layers/{self.layer}" if self.layer else "X"


@final
@attrs.frozen(kw_only=True, eq=False)
class Told:
    """What `obs` tells of each cell, and where from."""

    members_n: list[Members]
    raw_n: np.ndarray
    level_nC: list[tuple[str, ...]]
    covariates: tuple[str, ...]
    matched: tuple[bool, ...]
    said: Mapping[str, str]


def found(path: str, what: str = "data.path") -> Path:
    """The .h5ad file of a path.

    Raises:
        UserError: a folder, or no such file; with near matches.
    """
    file = Path(path).expanduser()
    if file.is_dir():
        inside = ", ".join(sorted(p.name for p in file.glob("*.h5ad"))) or "none"
        raise UserError(f"{what} = {path!r} is a folder: name one .h5ad file (in this folder: {inside})")
    if not file.exists():
        beside = sorted(p.name for p in file.parent.glob("*.h5ad")) if file.parent.is_dir() else []
        listed = ", ".join(beside) or "none"
        raise UserError(
            f"{what} = {path!r}: there is no such file; .h5ad files beside it: {listed}.{near(file.name, beside)}"
        )
    return file


def read_obs(file: AnnDataFile, keys: ScreenKeys, labels: Labels) -> Told:
    """Conditions and covariates of every cell.

    Raises:
        UserError: a column that is not there, or a label that cannot be read.
    """
    column, how = _column(file, keys.condition, CONDITION, "condition")
    if column is None:
        raise UserError(
            f"{file.name}: obs has none of the columns {', '.join(CONDITION)}; name the one with the conditions with "
            f"`condition` (columns: {', '.join(file.obs) or 'none'})"
        )
    raw_n, members_n = _conditions(file, column, labels)
    names, matched, said = _covariates(file, keys)
    level_nC: list[tuple[str, ...]] = (
        list(zip(*(levels_of(file, name) for name in names), strict=True)) if names else []
    )
    level_nC = level_nC or [()] * file.shape[0]
    told = {"condition_from": how, "covariates_from": said}
    return Told(members_n=members_n, raw_n=raw_n, level_nC=level_nC, covariates=names, matched=matched, said=told)


def table_of(file: AnnDataFile, told: Told, keys: ScreenKeys, *, drop: bool) -> tuple[ScreenTable, list[str]]:
    """The cells of a file as a table, and the units that were left out as too small."""
    values: Any = file.matrix(keys.matrix, backed=False)
    unit_n, units = build_units(told.members_n, told.level_nC)
    left: list[str] = []
    rows = np.arange(len(unit_n))
    if drop:
        rows, left = without_few(unit_n, units)
        if left:
            values = values[rows]
            unit_n, units = build_units([told.members_n[i] for i in rows], [told.level_nC[i] for i in rows])
    table = ScreenTable(
        values=values,
        genes=file.genes,
        unit_n=unit_n,
        units=units,
        raw_n=told.raw_n[rows],
        names_n=file.names[rows],
        covariates=told.covariates,
        matched=told.matched,
        where=f"{file.name}: {keys.matrix}",
    )
    return table, left


def _conditions(file: AnnDataFile, column: str, labels: Labels) -> tuple[np.ndarray, list[Members]]:
    values_n, missing_n = file.column(column)
    if missing_n.any():
        raise UserError(
            f"{file.name}: obs[{column!r}] names no condition for {int(missing_n.sum())} of {len(missing_n)} cells: "
            "fill the column or remove these cells, or name another column with `condition`"
        )
    raw_n = np.array([str(value) for value in values_n], dtype=object)
    read: dict[str, Members] = {}
    for label in dict.fromkeys(raw_n.tolist()):
        try:
            read[label] = labels.read(label)
        except ValueError as error:
            raise UserError(f"{file.name}: obs[{column!r}]: the label {label!r} {error}") from None
    _suspect(file.name, column, read, labels)
    return raw_n, [read[label] for label in raw_n.tolist()]


def _suspect(name: str, column: str, read: Mapping[str, Members], labels: Labels) -> None:
    """Refuse a column whose doubles are joined by something else than the separator."""
    singles = {members[0] for members in read.values() if len(members) == 1}
    joined = [m for m in singles if len(parts := re.split(r"[_,;&/:]", m)) > 1 and all(p in singles for p in parts)]
    if joined:
        sign = re.findall(r"[_,;&/:]", joined[0])[0]
        raise UserError(
            f"{name}: obs[{column!r}]: {some(sorted(joined))} looks like several perturbations that are there alone "
            f"as well, and `separator` is {labels.separator!r}: set it to {sign!r}, or rename the conditions"
        )


def _column(file: AnnDataFile, named: str, usual: Sequence[str], knob_name: str) -> tuple[str | None, str]:
    """A column of `obs`, and how it was found."""
    if named:
        if named not in file.obs:
            columns = ", ".join(file.obs) or "none"
            raise UserError(
                f"{file.name}: obs has no column {named!r}; set `{knob_name}` to one of: "
                f"{columns}.{near(named, file.obs)}"
            )
        return named, f"obs[{named!r}]"
    hit = next((name for name in usual if name in file.obs), None)
    return hit, f"obs[{hit!r}], found by its name" if hit else "no column"


def _covariates(file: AnnDataFile, keys: ScreenKeys) -> tuple[tuple[str, ...], tuple[bool, ...], str]:
    if keys.covariates == ("none",):
        names: list[str] = []
        said = "none, as asked"
    elif keys.covariates:
        names = [str(_column(file, name, (), "covariates")[0]) for name in keys.covariates]
        if len(set(names)) < len(names):
            raise UserError(f"covariates = {', '.join(names)} names a column twice")
        said = ", ".join(f"obs[{name!r}]" for name in names)
    else:
        hit, said = _column(file, "", CELL_TYPE, "covariates")
        names = [hit] if hit else []
    matched = [True] * len(names)
    if keys.dose:
        name = str(_column(file, keys.dose, (), "dose")[0])
        names, matched, said = [*names, name], [*matched, False], f"{said}; dose from obs[{name!r}]"
    return tuple(names), tuple(matched), said


def levels_of(file: AnnDataFile, name: str) -> list[str]:
    """The level of each cell in a column, `unknown` where it tells none."""
    values_n, missing_n = file.column(name)
    return [UNKNOWN if gone else str(value) for value, gone in zip(values_n, missing_n, strict=True)]
