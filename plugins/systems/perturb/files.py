"""Cells by condition from two AnnData files, one predicted and one real. n cells, G genes."""

from __future__ import annotations

import warnings
from collections import Counter
from pathlib import Path
from typing import Any, final

import attrs
import numpy as np
import scipy.sparse as sp

from core.errors import UserError
from core.hdf5 import probe
from core.names import near
from plugins.shared.condition import ALIASES, CONTROL, Labels, spell

COLUMNS = (
    "condition", "perturbation", "perturbation_name", "perturbations", "target", "target_gene", "gene", "treatment",
    "guide_identity",
)  # fmt: skip
"""columns of `obs` that are looked for, in this order"""
LARGEST = 15.0
"""log1p of anything but raw counts stays below"""
NAMED = 5
"""names that a sentence lists"""


@final
@attrs.frozen(kw_only=True)
class Keys:
    """Where a file holds what is compared."""

    condition: str = ""
    """column of `obs`; empty: the first of `COLUMNS` that both files have, else that each has"""
    control: str = ""
    """a label of controls beside the usual ones"""
    stratum: str = ""
    """column of `obs` whose values are compared apart; empty: all cells together"""
    total: float = 0.0
    """counts are scaled to this sum by cell and log1p is taken; 0: expression is log1p already"""


@final
@attrs.frozen(kw_only=True, eq=False)
class Cells:
    """The cells of one file."""

    path: Path
    matrix: np.ndarray | sp.csr_matrix
    """(n, G) float32"""
    genes: tuple[str, ...]
    conditions: np.ndarray
    """(n,) canonical names"""
    strata: np.ndarray
    """(n,) text, empty where there are none"""

    def groups(self, stratum: str, genes: np.ndarray) -> dict[str, np.ndarray]:
        """(n, G') by condition, of one stratum, at the columns given."""
        rows = np.flatnonzero(self.strata == stratum)
        return {
            name: self._dense(rows[self.conditions[rows] == name], genes) for name in sorted({*self.conditions[rows]})
        }

    def _dense(self, rows: np.ndarray, genes: np.ndarray) -> np.ndarray:
        part = self.matrix[rows]
        return (part.toarray() if sp.issparse(part) else part)[:, genes]


def read_pair(
    predicted: str, real: str, keys: Keys, layer: str = "", real_layer: str = ""
) -> tuple[Cells, Cells, list[str]]:
    """Both files, and sentences on what was found by itself.

    Raises:
        UserError: a file, column, layer or label that is not there, or expression that cannot be compared.
    """
    tables = [_open(predicted), _open(real)]
    paths = [Path(predicted), Path(real)]
    columns, said = _columns(paths, tables, keys.condition)
    first, second = (
        _cells(path, table, attrs.evolve(keys, condition=column), where)
        for path, table, column, where in zip(paths, tables, columns, (layer, real_layer), strict=True)
    )
    return first, second, said


def _columns(paths: list[Path], tables: list[Any], named: str) -> tuple[list[str], list[str]]:
    """The column of conditions of each file, and a sentence where it was found by itself.

    What `core sample` writes calls it `condition`, whatever the real cells' file does.
    """
    shared = [name for name in COLUMNS if all(name in table.obs.columns for table in tables)]
    found = []
    for path, table in zip(paths, tables, strict=True):
        own = shared or [name for name in COLUMNS if name in table.obs.columns]
        # The name that is given is the real file's; the predicted one may have it under a usual name.
        if named and (named in table.obs.columns or table is tables[1] or not own):
            found.append(named)
        elif own:
            found.append(own[0])
        else:
            raise UserError(
                f"{path} has none of the columns {', '.join(COLUMNS)}: name the one that holds the perturbation of a "
                f"cell with --condition (obs: {_names(table.obs.columns)})"
            )
    if found[0] == found[1]:
        return found, [] if named else [f"Conditions are read from obs[{found[0]!r}]."]
    return found, [
        f"Conditions are read from obs[{found[0]!r}] of {paths[0].name}, obs[{found[1]!r}] of {paths[1].name}."
    ]


def _open(name: str) -> Any:
    from anndata import read_h5ad

    path = Path(name).expanduser()
    if not path.is_file():
        beside = [p.name for p in path.parent.glob("*.h5ad")] if path.parent.is_dir() else []
        what = "is a folder" if path.is_dir() else "does not exist"
        raise UserError(
            f"{name} {what}; two .h5ad files are wanted, the predicted and the real.{near(path.name, beside)}"
        )
    probe(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return read_h5ad(path)
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - a damaged file raises errors of many kinds, which mean the same here
        reason = " ".join(str(error).split())[:160]
        raise UserError(
            f"{name} cannot be read as an h5ad file ({reason}); save it with adata.write_h5ad(...)"
        ) from None


def _cells(path: Path, table: Any, keys: Keys, layer: str) -> Cells:
    genes = tuple(str(gene) for gene in table.var_names)
    twice = [gene for gene, count in Counter(genes).items() if count > 1]
    if twice:
        raise UserError(
            f"{path}: {len(twice)} genes stand there more than once ({_names(twice)}); keep one of each "
            "(adata[:, ~adata.var_names.duplicated()])"
        )
    if not len(table):
        raise UserError(f"{path} holds no cell")
    raw = _column(path, table, keys.condition, "--condition")
    named = _named(path, {*raw}, keys)
    strata = _column(path, table, keys.stratum, "--stratum") if keys.stratum else np.full(len(raw), "", object)
    return Cells(
        path=path,
        matrix=_matrix(path, table, layer, keys.total),
        genes=genes,
        conditions=np.array([named[label] for label in raw], object),
        strata=strata,
    )


def _named(path: Path, labels: set[str], keys: Keys) -> dict[str, str]:
    """Canonical texts of labels."""
    reading = Labels(control=(*ALIASES, *filter(None, [keys.control.strip()])))
    found = {}
    for label in sorted(labels):
        try:
            found[label] = spell(reading.read(label))
        except ValueError as error:
            raise UserError(f"{path}: obs[{keys.condition!r}]: the label {label!r} {error}") from None
    return found


def _column(path: Path, table: Any, name: str, flag: str) -> np.ndarray:
    if name not in table.obs.columns:
        hint = near(name, [*map(str, table.obs.columns)])
        raise UserError(f"{path} has no obs[{name!r}] ({flag}).{hint} Columns: {_names(table.obs.columns)}")
    series = table.obs[name]
    empty = int(series.isna().sum())
    if empty:
        raise UserError(f"{path}: obs[{name!r}] is missing in {empty} of {len(series)} cells; fill it or take them out")
    return series.astype(str).to_numpy(dtype=object)


def _matrix(path: Path, table: Any, layer: str, total: float) -> np.ndarray | sp.csr_matrix:
    where = f"layers[{layer!r}]" if layer else "X"
    if layer and layer not in table.layers:
        raise UserError(f"{path} has no {where}; its layers: {_names(table.layers) or 'none'}")
    stored = table.layers[layer] if layer else table.X
    if stored is None:
        raise UserError(f"{path} has no X; name a layer: {_names(table.layers) or 'it has none either'}")
    matrix = sp.csr_matrix(stored, dtype=np.float32) if sp.issparse(stored) else np.asarray(stored, np.float32)
    values: Any = matrix.data if sp.issparse(matrix) else matrix
    if not np.isfinite(values).all():
        raise UserError(f"{path}: {where} holds values that are missing or not finite; predictions must be numbers")
    low, high = float(values.min(initial=0.0)), float(values.max(initial=0.0))
    if low < 0:
        raise UserError(
            f"{path}: {where} goes down to {low:.3g}, and log1p expression is never below 0: clip predictions at 0, or "
            "name the layer that is not scaled"
        )
    whole = bool((values == np.floor(values)).all())
    if total:
        return _normalised(matrix, total) if whole else matrix
    if high > LARGEST or (whole and high > 1):
        what = f"goes up to {high:.4g}" if high > LARGEST else f"holds whole numbers only, up to {high:.4g}"
        raise UserError(
            f"{path}: {where} {what}, so it holds counts and no log1p: name a log1p layer, or have "
            "counts scaled with --total 10000"
        )
    return matrix


def _normalised(matrix: np.ndarray | sp.csr_matrix, total: float) -> np.ndarray | sp.csr_matrix:
    """log1p of counts scaled to one total; a cell without counts stays empty."""
    sums = np.asarray(matrix.sum(1), np.float64).ravel()
    factor = np.divide(total, sums, out=np.zeros_like(sums), where=sums > 0).astype(np.float32)
    if not sp.issparse(matrix):
        return np.log1p(matrix * factor[:, None])
    scaled = sp.csr_matrix(sp.diags(factor) @ matrix, dtype=np.float32)
    scaled.data = np.log1p(scaled.data)
    return scaled


def common_genes(predicted: Cells, real: Cells) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Columns of the shared genes in both files, in the order of the real one, and what is missing.

    Raises:
        UserError: they share none.
    """
    at = {gene: i for i, gene in enumerate(predicted.genes)}
    mine = [i for i, gene in enumerate(real.genes) if gene in at]
    if not mine:
        raise UserError(
            f"{predicted.path} and {real.path} share no gene by name ({_names(predicted.genes)}; "
            f"{_names(real.genes)}): write gene symbols into var_names of both"
        )
    said = []
    lacking = [gene for gene in real.genes if gene not in at]
    if lacking:
        said.append(
            f"{len(lacking)} of {len(real.genes)} real genes are not predicted ({_names(lacking)}) and not judged."
        )
    extra = len(predicted.genes) - len(mine)
    if extra:
        said.append(f"{extra} predicted genes are not in {real.path.name} and not judged.")
    return np.array([at[real.genes[i]] for i in mine]), np.array(mine), said


def check_control(real: Cells) -> None:
    """Refuse a real file without controls.

    Raises:
        UserError: no cell is a control; the labels that are there.
    """
    if CONTROL not in real.conditions:
        raise UserError(
            f"{real.path} holds no control cells, which effects are measured from: name their label with --control "
            f"(conditions: {_names(sorted({*real.conditions}))})"
        )


def _names(names: Any) -> str:
    names = [str(name) for name in names]
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more
