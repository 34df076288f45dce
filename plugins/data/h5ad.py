"""Cells and positions from one AnnData file.

n cells, G genes, P axes of space.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, ClassVar, final

import attrs

from core.errors import UserError
from core.kinds.data import Data
from core.names import near
from core.params import group, knob, params
from plugins.data.anndata_file import AnnDataFile
from plugins.data.cells import CellTable
from plugins.data.columns import cell_types, positions, sections
from plugins.data.cut import Cut
from plugins.data.like import Keys, NewCells, read_like
from plugins.data.prepare import Prepare
from plugins.data.sets import CellSource, Sets


@final
@params
class H5ad(Data):
    """Cells with positions, read from an AnnData file (.h5ad, Virshup et al. 2024, doi:10.21105/joss.04371).

    Positions come from the one key that is named, never from another (an embedding such as `X_umap` is no tissue). What
    was found by default, or not found, stands among the card's facts.
    """

    applied_by: ClassVar[tuple[str, ...]] = ("position", "section", "cell_type", "layer")

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
        section_n, names, section_said = sections(file, self.section)
        type_n, types, type_said = cell_types(file, self.cell_type)
        matrix = f"layers/{self.layer}" if self.layer else "X"
        table = CellTable(
            counts=file.matrix(matrix, backed=self.backed),
            position_nP=positions(file, self.position),
            section_n=section_n,
            sections=names,
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
