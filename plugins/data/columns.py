"""What the columns of an AnnData file say of its cells: sections, types, positions.

n cells, P axes of space.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from core.errors import UserError
from core.names import near
from plugins.data.anndata_file import AnnDataFile
from plugins.data.cells import ordered

SECTION, CELL_TYPE = "section", "cell_type"
"""columns of `obs` that are read where no other is named"""


def sections(file: AnnDataFile, named: str) -> tuple[np.ndarray, tuple[str, ...], str]:
    """Codes (n,), names, and where they are from.

    Args:
        file: the file.
        named: the column; empty: `section` if there is one, else all cells are the one section `all`.

    Raises:
        UserError: no such column, or cells without a section.
    """
    key = named or SECTION
    if not named and key not in file.obs:
        columns = ", ".join(file.obs) or "none"
        said = f"no column {SECTION!r} in obs, so all cells are one section (columns: {columns})"
        return np.zeros(file.shape[0], np.int64), ("all",), said
    codes_n, names = _codes(file, key, "section")
    if (codes_n < 0).any():
        raise UserError(
            f"{file.name}: obs[{key!r}] names no section for {int((codes_n < 0).sum())} of {len(codes_n)} cells: "
            "fill the column or remove these cells, or name another column with `section`"
        )
    return codes_n, names, f"obs[{key!r}]" + ("" if named else ", found by its name")


def cell_types(file: AnnDataFile, named: str) -> tuple[np.ndarray, tuple[str, ...], str]:
    """Codes (n,), -1 where the type is missing; names; where they are from.

    Raises:
        UserError: no column is called `named`.
    """
    key = named or CELL_TYPE
    if not named and key not in file.obs:
        return np.full(file.shape[0], -1), (), f"none: no column {CELL_TYPE!r} in obs"
    codes_n, names = _codes(file, key, "cell_type")
    return codes_n, names, f"obs[{key!r}]" + ("" if named else ", found by its name")


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


def positions(file: AnnDataFile, key: str) -> np.ndarray:
    """Positions (n, P) in float64 from the one key that is named, never from another.

    Raises:
        UserError: no such key (those there are get listed), or no two or three columns of numbers.
    """
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
