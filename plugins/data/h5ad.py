"""Cells and positions from one AnnData file.

n cells, G genes, P axes of space.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, final

import attrs
import numpy as np

from core.errors import UserError
from core.kinds.data import Data
from core.names import near
from core.params import group, knob, params
from plugins.data.anndata_file import AnnDataFile
from plugins.data.cells import CellTable, ordered
from plugins.data.cut import Cut
from plugins.data.like import Keys, NewCells, read_like
from plugins.data.prepare import Prepare
from plugins.data.sets import CellSource, Sets

SECTION, CELL_TYPE = "section", "cell_type"
"""columns of `obs` that are read where no other is named"""


@final
@params
class H5ad(Data):
    """Cells with positions, read from an AnnData file (.h5ad, Virshup et al. 2024, doi:10.21105/joss.04371).

    Positions come from the one key that is named, never from another (an embedding such as `X_umap` is no tissue). What
    was found by default, or not found, stands among the card's facts.
    """

    path: str = knob(attrs.NOTHING, "the .h5ad file; its content counts for a run, not its place", identity=False)
    position: str = knob("spatial", "key of `obsm` that holds positions, two or three columns")
    section: str = knob(
        "", "column of `obs` that names sections; empty: `section` if there is one, else all is one section"
    )
    cell_type: str = knob("", "column of `obs` that names cell types; empty: `cell_type` if there is one, else none")
    layer: str = knob("", "layer to read expression from; empty: X")
    backed: bool = knob(False, "leave the matrix on disk and read the rows of each batch", identity=False)
    sets: Sets = group("how cells are grouped for training")
    cut: Cut = group("how cells are split")
    prepare: Prepare = group("how expression is scaled")

    def open(self) -> CellSource:
        """Read the file; with `backed`, it stays open.

        Raises:
            UserError: no such file, a file that is not a whole h5ad, a key that is not there, or content that cannot be
                used; one sentence that names file, field and fix.
        """
        path = _found(self.path)
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        file = AnnDataFile(path)
        section_n, sections, section_said = self._sections(file)
        type_n, types, type_said = self._types(file)
        matrix = f"layers/{self.layer}" if self.layer else "X"
        table = CellTable(
            counts=file.matrix(matrix, backed=self.backed),
            position_nP=_positions(file, self.position),
            section_n=section_n,
            sections=sections,
            type_n=type_n,
            types=types,
            genes=file.genes,
            where={
                "expression": f"{path.name}: {matrix}",
                "position": f"{path.name}: obsm[{self.position!r}]",
                "section": f"{path.name}: {section_said}",
            },
        )
        keys = {"position": self.position, "section": self.section, "cell_type": self.cell_type, "layer": self.layer}
        said = {
            "file": path.name,
            "expression_from": matrix,
            "position_from": f"obsm[{self.position!r}]",
            "section_from": section_said,
            "cell_type_from": type_said,
            **file.notes(),
        }
        if not self.backed:
            file.close()
        return CellSource(
            path.stem,
            table,
            content=json.dumps([digest, keys]),
            sets=self.sets,
            cut=self.cut,
            prepare=self.prepare,
            said=said,
        )

    def like(self, path: Path, preparation: Mapping[str, Any], needs: Collection[str]) -> NewCells:
        """Cells of another file, at the keys of this one; see `plugins.data.like.read_like`."""
        keys = Keys(position=self.position, section=self.section, cell_type=self.cell_type, layer=self.layer)
        return read_like(path, preparation, needs, keys)

    def _sections(self, file: AnnDataFile) -> tuple[np.ndarray, tuple[str, ...], str]:
        """Codes, names, and where they are from."""
        key = self.section or SECTION
        if not self.section and key not in file.obs:
            columns = ", ".join(file.obs) or "none"
            said = f"no column {SECTION!r} in obs, so all cells are one section (columns: {columns})"
            return np.zeros(file.shape[0], np.int64), ("all",), said
        codes_n, names = _codes(file, key, "section")
        if (codes_n < 0).any():
            raise UserError(
                f"{file.name}: obs[{key!r}] names no section for {int((codes_n < 0).sum())} of {len(codes_n)} cells: "
                "fill the column or remove these cells, or name another column with `section`"
            )
        return codes_n, names, f"obs[{key!r}]" + ("" if self.section else ", found by its name")

    def _types(self, file: AnnDataFile) -> tuple[np.ndarray, tuple[str, ...], str]:
        key = self.cell_type or CELL_TYPE
        if not self.cell_type and key not in file.obs:
            return np.full(file.shape[0], -1), (), f"none: no column {CELL_TYPE!r} in obs"
        codes_n, names = _codes(file, key, "cell_type")
        return codes_n, names, f"obs[{key!r}]" + ("" if self.cell_type else ", found by its name")


def _found(path: str) -> Path:
    file = Path(path).expanduser()
    if file.is_dir():
        inside = ", ".join(sorted(p.name for p in file.glob("*.h5ad"))) or "none"
        raise UserError(f"data.path = {path!r} is a folder: name one .h5ad file (in this folder: {inside})")
    if not file.exists():
        if not file.parent.is_dir():
            raise UserError(
                f"data.path = {path!r}: there is no folder {str(file.parent)!r}; give the path of an .h5ad file"
            )
        beside = sorted(p.name for p in file.parent.glob("*.h5ad"))
        raise UserError(
            f"data.path = {path!r}: there is no such file; .h5ad files in its folder: {', '.join(beside) or 'none'}."
            f"{near(file.name, beside)}"
        )
    return file


def _codes(file: AnnDataFile, key: str, knob_name: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """Codes of a column of `obs` into its sorted names; -1 where it says nothing."""
    if key not in file.obs:
        columns = ", ".join(file.obs) or "none"
        raise UserError(
            f"{file.name}: obs has no column {key!r}; set `{knob_name}` to one of: {columns}.{near(key, file.obs)}"
        )
    values_n, missing_n = file.column(key)
    named = [None if gone else str(value) for value, gone in zip(values_n, missing_n, strict=True)]
    names = ordered({name for name in named if name is not None})
    place = {name: code for code, name in enumerate(names)}
    return np.array([-1 if name is None else place[name] for name in named], np.int64), names


def _positions(file: AnnDataFile, key: str) -> np.ndarray:
    listed = ", ".join(file.obsm) or "none"
    if key not in file.obsm:
        raise UserError(
            f"{file.name}: obsm has no key {key!r}; set `position` to the key of the positions in tissue (there is: "
            f"{listed}).{near(key, file.obsm)} Where they stand in columns of obs, add them and save the file: "
            f'adata.obsm["spatial"] = adata.obs[["x", "y"]].to_numpy()'
        )
    values: Any = np.asarray(file.embedding(key))
    cells = file.shape[0]
    if values.shape not in ((cells, 2), (cells, 3)):
        raise UserError(
            f"{file.name}: obsm[{key!r}] is of shape {values.shape}, and positions are {cells} x 2 or {cells} x 3: "
            f"name another key with `position` (there is: {listed})"
        )
    if values.dtype.kind not in "buif":
        raise UserError(f"{file.name}: obsm[{key!r}] holds {values.dtype}, not numbers: save it as floats")
    return values.astype(np.float64)
