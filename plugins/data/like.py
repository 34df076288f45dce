"""Cells of another file, prepared as the training cells of a run were; and results written back as AnnData.

n cells of the file, G genes of the panel, P axes of space, S sections, K draws, D width of an embedding.
"""

from __future__ import annotations

import secrets
import warnings
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, final

import attrs
import numpy as np
import scipy.sparse as sp
import torch

from core.errors import UserError
from core.files import sync_file, sync_folder
from core.kinds.data import Batch, Items
from core.names import near
from plugins.data.anndata_file import AnnDataFile
from plugins.data.cells import dense, ordered, stored
from plugins.data.prepare import Preparation
from plugins.data.staged import stage
from plugins.data.transform import Transform

SHOWN = 5
"""names that a note lists before it counts"""


@final
@attrs.frozen(kw_only=True)
class Keys:
    """Where a file holds what; empty: the usual place if it is there."""

    position: str = "spatial"
    section: str = ""
    cell_type: str = ""
    layer: str = ""


def told(fitted: Preparation, genes: Collection[str], types: Collection[str]) -> dict[str, Any]:
    """A fitted preparation as plain JSON: all that new cells need, whatever section they are from."""
    return {
        "transform": fitted.transform,
        "target_sum": fitted.target_sum,
        "clip": fitted.clip,
        "mean": fitted.mean_G.tolist(),
        "std": fitted.std_G.tolist(),
        "scale": fitted.scale,
        "dims": int(fitted.centre_SP.shape[1]),
        "genes": list(genes),
        "types": list(types),
    }


def read_like(path: Path, preparation: Mapping[str, Any], needs: Collection[str], keys: Keys) -> NewCells:
    """Open a file of cells for a model that was trained on others.

    Genes are matched by name: those that the file lacks are taken at their training mean, others are left out, and both
    are told. Each section's cells are placed around their own mean position. Where the training cells came from a
    prepared folder (`staged`), stage 1 is done first: see `plugins.data.staged.stage`.

    Args:
        path: an .h5ad file.
        preparation: what `told` told of the training cells.
        needs: `expression`, `position`, both or neither: what the file must hold. Expression is read only then,
            positions wherever they are.
        keys: where the file holds it.

    Raises:
        UserError: no such file, no whole h5ad file, none of the panel's genes, no or wrong positions, or values that
            are not finite.
    """
    if not preparation:
        raise UserError("the run's data cannot tell how other cells are to be prepared")
    if not path.is_file():
        beside = sorted(p.name for p in path.parent.glob("*.h5ad")) if path.parent.is_dir() else []
        raise UserError(f"{str(path)!r}: there is no such file; give an .h5ad file.{near(path.name, beside)}")
    file = AnnDataFile(path)
    try:
        return _read(path, file, preparation, needs, keys)
    finally:
        file.close()


def _read(
    path: Path, file: AnnDataFile, preparation: Mapping[str, Any], needs: Collection[str], keys: Keys
) -> NewCells:
    cells = file.shape[0]
    if not cells:
        raise UserError(f"{file.name} holds no cell")
    notes: list[str] = []
    section_n, sections = _coded(file, keys.section, "section", notes)
    if (section_n < 0).any():
        raise UserError(
            f"{file.name}: {int((section_n < 0).sum())} of {cells} cells have no section: fill the column or remove "
            "them"
        )
    panel, types = preparation["genes"], preparation["types"]
    type_n = np.full(cells, -1)
    if types and (keys.cell_type or "cell_type") in file.obs:
        own_n, names = _coded(file, keys.cell_type, "cell_type", [])
        place = {name: code for code, name in enumerate(types)}
        type_n = np.array([place.get(names[code], -1) if code >= 0 else -1 for code in own_n], np.int64)
    values, shared_G = None, np.zeros(len(panel), bool)
    staged = preparation.get("staged")
    if "expression" in needs:
        logged = staged is not None and (staged["knobs"]["normalize"] or staged["knobs"]["log1p"])
        values, shared_G = _expression(file, panel, "log1p" if logged else preparation["transform"], keys, notes)
        if staged is not None:
            values = stage(values, shared_G, section_n, sections, path.stem, staged, notes)
    position_nP = _position(file, preparation["dims"], "position" in needs, keys, notes, staged)
    known = frozenset(["expression"] * (values is not None) + ["position"] * (position_nP is not None))
    if position_nP is None:
        position_nP = np.zeros((cells, preparation["dims"]))
    centre_SP = np.stack([position_nP[section_n == s].mean(axis=0) for s in range(len(sections))])
    fitted = Preparation(
        transform=preparation["transform"],
        reason="as the training cells",
        target_sum=preparation["target_sum"],
        clip=preparation["clip"],
        mean_G=np.array(preparation["mean"]),
        std_G=np.array(preparation["std"]),
        centre_SP=centre_SP,
        scale=preparation["scale"],
    )
    return NewCells(
        path=path,
        known=known,
        notes=tuple(notes),
        genes=tuple(panel),
        values=values,
        shared_G=shared_G,
        position_nP=position_nP,
        section_n=section_n,
        sections=sections,
        type_n=type_n,
        fitted=fitted,
        meaning=_meaning(preparation),
    )


def _meaning(preparation: Mapping[str, Any]) -> str:
    """The scale of made expression in words."""
    if (staged := preparation.get("staged")) is not None:
        return Transform(**staged["knobs"]).describe(sparse=staged["sparse"])
    total = f"each cell scaled to a total of {preparation['target_sum']:g} over the {len(preparation['genes'])} genes"
    return {"counts": f"{total}, then log(1 + x)", "log1p": "log(1 + x)"}.get(
        preparation["transform"], "values as the training file stored them"
    )


@final
@attrs.frozen(kw_only=True, eq=False)
class NewCells(Items):
    """Cells that were no part of training. Batches hold the fields of `plugins.data.sets.CellSource`."""

    path: Path
    known: frozenset[str]
    notes: tuple[str, ...]
    genes: tuple[str, ...]
    values: Any
    """(n, shared) dense or CSR; None where the file tells no expression"""
    shared_G: np.ndarray
    """which genes of the panel `values` has, bool"""
    position_nP: np.ndarray
    section_n: np.ndarray
    sections: tuple[str, ...]
    type_n: np.ndarray
    fitted: Preparation
    meaning: str
    """the scale of made expression in words"""

    def units(self) -> Iterator[Batch]:
        for code, section in enumerate(self.sections):
            rows = np.flatnonzero(self.section_n == code)
            fields = {
                "expression": self._expression(rows),
                "position": self.fitted.placed(self.position_nP[rows], self.section_n[rows]),
                "cell_type": self.type_n[rows],
                "index": rows,
            }
            tensors = {name: torch.from_numpy(value)[None] for name, value in fields.items()}
            yield Batch(tensors, torch.ones((1, len(rows)), dtype=torch.bool), (section,))

    def save(self, path: Path, made: Mapping[str, np.ndarray], said: Mapping[str, Any], *, fresh: bool) -> None:
        """Write an AnnData file.

        Positions stand in `obsm["spatial"]` in input units, about the centre of their section in the input where that
        is known; expression in `X`, on the scale of the training cells after their transform, which `uns["cellcore"]`
        tells in words as `X`, with model units in `layers["model"]`. Of several draws these are the mean, and each draw
        stands beside it (`spatial_draw1`, `draw1`, ...). Where the input had positions, they are kept in
        `obsm["spatial_input"]`. Beside made expression stays what the file says of its cells and of the run's genes;
        layers and `raw` were of the old `X` and go. What made it is told in `uns["cellcore"]`.
        """
        from anndata import AnnData

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            out = self._blank(AnnData, fresh) if "expression" in made else self._given()
            if "expression" in made:
                self._put_expression(out, made["expression"])
            if "position" in made:
                self._put_position(out, made["position"], fresh)
            if "embedding" in made:
                out.obsm["X_cellcore"] = made["embedding"][0].astype(np.float32)
            out.uns["cellcore"] = dict(said) | ({"X": self.meaning} if "expression" in made else {})
            write_anndata(out, path)

    def _put_expression(self, out: Any, draws_KnG: np.ndarray) -> None:
        mean_nG = draws_KnG.mean(axis=0, dtype=np.float64)
        out.X = self._natural(mean_nG)
        out.layers["model"] = mean_nG.astype(np.float32)
        for number, draw_nG in enumerate(draws_KnG if len(draws_KnG) > 1 else (), 1):
            out.layers[f"draw{number}"] = self._natural(draw_nG)

    def _put_position(self, out: Any, draws_KnP: np.ndarray, fresh: bool) -> None:
        if "position" in self.known and not fresh:
            out.obsm["spatial_input"] = self.position_nP
        draws_KnP = draws_KnP.astype(np.float64) * self.fitted.scale
        if not fresh:
            draws_KnP = draws_KnP + self.fitted.centre_SP[self.section_n]
        out.obsm["spatial"] = draws_KnP.mean(axis=0)
        for number, draw_nP in enumerate(draws_KnP if len(draws_KnP) > 1 else (), 1):
            out.obsm[f"spatial_draw{number}"] = draw_nP

    def _natural(self, values_nG: np.ndarray) -> np.ndarray:
        """Model units back on the transformed scale of the training cells."""
        return (values_nG * self.fitted.std_G + self.fitted.mean_G).astype(np.float32)

    def _expression(self, rows: np.ndarray) -> np.ndarray:
        out_kG = np.zeros((len(rows), len(self.genes)), np.float32)
        if self.values is None:
            return out_kG
        block = self.values[rows]
        total_k = np.asarray(block.sum(axis=1, dtype=np.float64)).ravel()
        # A gene that the file lacks stays at 0, the training mean; a raw 0 would say that it is silent.
        filled_kG = np.zeros_like(out_kG)
        filled_kG[:, self.shared_G] = dense(self.fitted.transformed(block, total_k))
        out_kG[:, self.shared_G] = self.fitted.standardised(filled_kG)[:, self.shared_G]
        return out_kG

    def _given(self) -> Any:
        """The file itself, to add to."""
        from anndata import read_h5ad

        return read_h5ad(self.path)

    def _blank(self, make: Any, fresh: bool) -> Any:
        """The file's cells, or as many new ones, over the genes of the panel."""
        given = self._given()
        out = make(X=np.zeros((len(self.section_n), len(self.genes)), np.float32), obs=None if fresh else given.obs)
        out.var_names = list(self.genes)
        if fresh:
            out.obs_names = [f"generated{i}" for i in range(len(self.section_n))]
            out.obs["section"] = [self.sections[code] for code in self.section_n]
        if not fresh:
            for key in given.obsm:
                out.obsm[key] = given.obsm[key]
            for key in given.obsp:
                out.obsp[key] = given.obsp[key]
            if given.var_names.is_unique:
                # Plain bool has no word for genes that the file lacks.
                yes_no = given.var.select_dtypes("bool").columns
                out.var = given.var.astype(dict.fromkeys(yes_no, "boolean")).reindex(list(self.genes))
            # Colours and their like; what tells of values (`log1p`, a PCA) would be untrue of the new ones.
            out.uns.update({key: value for key, value in given.uns.items() if key.endswith("_colors")})
            # Whatever the key was called in the input, readers look for `spatial`.
            out.obsm["spatial"] = self.position_nP
        return out


def _expression(
    file: AnnDataFile, panel: list[str], transform: str, keys: Keys, notes: list[str]
) -> tuple[Any, np.ndarray]:
    """Values of the panel's genes that the file has, and which these are."""
    column = {gene: i for i, gene in enumerate(file.genes)}
    shared_G = np.array([gene in column for gene in panel])
    matrix = f"layers/{keys.layer}" if keys.layer else "X"
    if not shared_G.any():
        few = f"{', '.join(panel[:SHOWN])}, ... and it has {', '.join(file.genes[:SHOWN]) or 'none'}, ..."
        raise UserError(
            f"{file.name} has none of the {len(panel)} genes that the run was trained on ({few}): name genes alike "
            "(var_names), and mind symbols against identifiers"
        )
    twice = sorted({gene for gene in panel if gene in column and file.genes.count(gene) > 1})
    if twice:
        raise UserError(f"{file.name} names gene {twice[0]!r} more than once: adata.var_names_make_unique() it first")
    whole: Any = file.matrix(matrix, backed=False)
    values = whole[:, [column[gene] for gene in panel if gene in column]]
    _check_values(file, matrix, values, transform, notes)
    missing = [gene for gene in panel if gene not in column]
    if missing:
        more = f" and {len(missing) - SHOWN} more" if len(missing) > SHOWN else ""
        notes.append(
            f"{len(missing)} of the {len(panel)} genes of the run are not in {file.name} and are taken at their "
            f"training mean: {', '.join(missing[:SHOWN])}{more}."
        )
    if len(file.genes) > int(shared_G.sum()):
        notes.append(
            f"{len(file.genes) - int(shared_G.sum())} genes of {file.name} are not in the run and are not read."
        )
    return values, shared_G


def _check_values(file: AnnDataFile, matrix: str, values: Any, transform: str, notes: list[str]) -> None:
    numbers = stored(values)
    bad = int((~np.isfinite(numbers)).sum())
    if bad:
        raise UserError(
            f"{file.name}: {matrix} holds {bad} NaN or infinite value(s) in genes of the run: remove these cells or "
            "genes"
        )
    if transform != "none" and numbers.size and numbers.min() < 0:
        raise UserError(
            f"{file.name}: {matrix} holds negative values (down to {numbers.min():g}), and the run's expression is "
            f"read with transform {transform!r}: name a matrix on the scale of the training cells with --data.layer"
        )
    if transform == "counts" and not (numbers == np.rint(numbers)).all():
        notes.append(
            f"{matrix} of {file.name} holds fractions where the run was trained on counts: make sure that it is no "
            "logarithm."
        )
    if sp.issparse(values):
        values.sum_duplicates()


def _position(
    file: AnnDataFile, dims: int, needed: bool, keys: Keys, notes: list[str], staged: Mapping[str, Any] | None
) -> np.ndarray | None:
    listed = ", ".join(file.obsm) or "none"
    wrong = ""
    values: Any = None
    if keys.position not in file.obsm:
        wrong = f"{file.name}: obsm has no key {keys.position!r}, where positions are looked for (there is: {listed})"
    else:
        values = _flat(np.asarray(file.embedding(keys.position)), dims, staged)
        if values.ndim != 2 or values.dtype.kind not in "buif" or values.shape[1] != dims:
            wrong = (
                f"{file.name}: obsm[{keys.position!r}] is {values.dtype} of shape {values.shape}, and the run was "
                f"trained on positions of {dims} numbers"
            )
        elif not np.isfinite(values).all():
            count = int((~np.isfinite(values)).any(axis=1).sum())
            wrong = f"{file.name}: obsm[{keys.position!r}] is NaN or infinite for {count} of {len(values)} cells"
    if not wrong:
        return values.astype(np.float64)
    if needed:
        raise UserError(f"{wrong}: this needs positions; remove these cells, or name another key with --data.position")
    if keys.position in file.obsm:
        notes.append(f"{wrong}, so it is not read.")
    return None


def _flat(values: Any, dims: int, staged: Mapping[str, Any] | None) -> Any:
    """Positions with the axes of a prepared folder: a section of a stack is flat, and of three axes two may be kept."""
    if staged is None or values.ndim != 2 or values.dtype.kind not in "buif":
        return values
    if staged["stacked"] and values.shape[1] == 2:
        return np.column_stack([values, np.zeros(len(values))])
    return values[:, :2] if dims == 2 and values.shape[1] == 3 else values


def _coded(file: AnnDataFile, asked: str, usual: str, notes: list[str]) -> tuple[np.ndarray, tuple[str, ...]]:
    """Codes of a column of `obs` into its sorted names, -1 where it says nothing; one name `all` without the column."""
    key = asked or usual
    if key not in file.obs:
        if asked:
            columns = ", ".join(file.obs) or "none"
            raise UserError(f"{file.name}: obs has no column {key!r}: there are {columns}.{near(key, file.obs)}")
        notes.append(f"{file.name} has no column {key!r} in obs, so all its cells are one {key}.")
        return np.zeros(file.shape[0], np.int64), ("all",)
    values_n, missing_n = file.column(key)
    named = [None if gone else str(value) for value, gone in zip(values_n, missing_n, strict=True)]
    names = ordered({name for name in named if name is not None})
    place = {name: code for code, name in enumerate(names)}
    return np.array([-1 if name is None else place[name] for name in named], np.int64), names


def write_anndata(out: Any, path: Path) -> None:
    """The file whole or not at all."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        out.write_h5ad(temporary)
        sync_file(temporary)
        temporary.replace(path)
        sync_folder(path.absolute().parent)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror or error})") from None
    finally:
        temporary.unlink(missing_ok=True)
