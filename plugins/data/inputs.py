"""Sections of AnnData files as they come, and what must hold before anything is made of them.

n cells, G genes of the panel, P axes of space.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import final

import attrs
import numpy as np
import scipy.sparse as sp

from core.errors import UserError
from core.listed import file_sha
from core.names import near
from plugins.data.anndata_file import AnnDataFile
from plugins.data.cells import BLOCK, Block
from plugins.data.columns import sections
from plugins.data.panel import pick
from plugins.data.prepare import LOG_ABOVE
from plugins.data.transform import Transform

SILENT = "every value of the panel is 0 here"
"""what is noted of a section without any expression"""


@final
@attrs.frozen(eq=False)
class Input:
    """One section of one file."""

    file: AnnDataFile
    sha: str
    where: str
    """how a message calls it"""
    name: str
    rows: np.ndarray


def found(inputs: Sequence[str]) -> list[Path]:
    """The files that inputs name, folders opened up, in order of their names.

    Raises:
        UserError: a path that is not there, that is no .h5ad file, that holds none, or that is given twice.
    """
    if not inputs:
        raise UserError("name the .h5ad files to prepare, or a folder that holds them")
    files: list[Path] = []
    for text in inputs:
        path = Path(text).expanduser()
        if path.is_dir():
            inside = sorted(path.glob("*.h5ad"))
            if not inside:
                raise UserError(f"the folder {text!r} holds no .h5ad file")
            files += inside
        elif not path.exists():
            beside = sorted(p.name for p in path.parent.glob("*.h5ad"))
            raise UserError(f"there is no file {text!r}.{near(path.name, beside)}")
        elif path.suffix != ".h5ad":
            raise UserError(f"{text!r} is no .h5ad file: save it with adata.write_h5ad(...)")
        else:
            files.append(path)
    real = [path.resolve() for path in files]
    twice = [str(path) for path, own in zip(files, real, strict=True) if real.count(own) > 1]
    if twice:
        raise UserError(f"{twice[0]!r} is given twice, so its cells would count twice: name it once")
    return sorted(files, key=lambda path: (path.name, str(path)))


def stems(paths: list[Path]) -> list[str]:
    """What each file calls its sections: its stem, with the folder's name before it where stems repeat."""
    short = [path.stem for path in paths]
    longer = [s if short.count(s) == 1 else f"{p.resolve().parent.name}-{s}" for s, p in zip(short, paths, strict=True)]
    twice = [stem for stem in longer if longer.count(stem) > 1]
    if twice:
        raise UserError(f"two inputs are called {twice[0]!r}, so their sections could not be told apart: rename a file")
    return longer


def inputs_of(file: AnnDataFile, path: Path, stem: str, column: str) -> list[Input]:
    """The sections of a file."""
    if not file.shape[0]:
        raise UserError(f"{file.name} has no cells")
    codes_n, names, said = sections(file, column)
    sha = file_sha(path)
    whole = names == ("all",) and said.startswith("no column")
    parts = []
    for code, name in enumerate(names):
        called = stem if whole else f"{stem}:{name}"
        parts.append(Input(file, sha, f"{file.name}, section {called!r}", called, np.flatnonzero(codes_n == code)))
    return parts


def counts_of(part: Input, matrix: str, column_G: np.ndarray, *, sparse: bool) -> Block:
    """The panel's columns of a section's rows, read in blocks."""
    held = part.file.matrix(matrix, backed=not part.file.by_column(matrix))
    step = max(1, BLOCK // max(1, held.shape[1]))
    picked = []
    for start in range(0, len(part.rows), step):
        rows = part.rows[start : start + step]
        first, last = int(rows[0]), int(rows[-1]) + 1
        # One run and a choice from it is far faster than scattered rows, unless most of the run is for nothing.
        near_by = last - first <= 4 * len(rows)
        block = held[np.arange(first, last)][rows - first] if near_by else held[rows]
        chosen = pick(block, column_G)
        picked.append(sp.csr_matrix(chosen) if sparse else chosen.toarray() if sp.issparse(chosen) else chosen)
    return sp.vstack(picked, format="csr") if sparse else np.concatenate(picked)


def check_places(place_nP: np.ndarray, part: Input, key: str) -> None:
    """Refuse positions that are not finite, all the same, or beyond arithmetic."""
    finite_n = np.isfinite(place_nP).all(axis=1)
    if not finite_n.all():
        raise UserError(
            f"{part.where}: obsm[{key!r}] is NaN or infinite for {int((~finite_n).sum())} of {len(finite_n)} cells: "
            "remove these cells, or name another key with --position"
        )
    with np.errstate(over="ignore", invalid="ignore"):
        spread = float(np.sqrt(np.square(place_nP - place_nP.mean(axis=0)).mean()))
    if spread == 0:
        raise UserError(
            f"{part.where}: obsm[{key!r}] puts all {len(place_nP)} cells at one place: name another key with "
            "--position, or remove the section"
        )
    if not spread < np.inf:
        raise UserError(f"{part.where}: obsm[{key!r}] is too large for any arithmetic: give a unit such as micrometres")


def check_counts(counts: Block, part: Input, panel: tuple[str, ...], transform: Transform) -> list[str]:
    """Refuse what no transform can take; notes on what looks wrong."""
    values = counts.data if sp.issparse(counts) else counts
    if not np.isfinite(values).all():
        bad = counts.indices[~np.isfinite(values)] if sp.issparse(counts) else np.nonzero(~np.isfinite(values))[1]
        raise UserError(
            f"{part.where} holds {len(bad)} NaN or infinite value(s), the first in gene {panel[int(bad[0])]!r}: remove "
            "these cells or genes, or name another matrix with --layer"
        )
    low, high = float(values.min(initial=0)), float(values.max(initial=0))
    if low < 0 and (transform.normalize or transform.log1p):
        raise UserError(
            f"{part.where} holds negative values (down to {low:g}), which have no total and no logarithm: give "
            "--no-normalize --no-log1p, or name a matrix of counts with --layer"
        )
    warnings = []
    if transform.log1p and 0 < high < LOG_ABOVE and not np.array_equal(values, np.rint(values)):
        warnings.append(
            f"fractional values below {LOG_ABOVE:g} (up to {high:.3g}) look like logarithms already; if they are, give "
            "--no-normalize --no-log1p"
        )
    if high == 0:
        warnings.append(SILENT)
    return warnings
