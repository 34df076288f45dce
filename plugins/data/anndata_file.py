"""The parts of an AnnData file, each read when asked for, so that a large matrix may stay on disk.

k chosen rows, G genes.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, final

import numpy as np
import scipy.sparse as sp

from core.errors import UserError
from core.hdf5 import probe as _probe


@final
class AnnDataFile:
    """An open .h5ad file.

    Raises:
        UserError: the file cannot be read, or is no AnnData file.
    """

    def __init__(self, path: Path) -> None:
        import h5py

        self.name = path.name
        _probe(path)
        with self._reading("it"):
            self._file = h5py.File(path, "r")
        absent = [part for part in ("obs", "var") if part not in self._file]
        if absent:
            self.close()
            raise UserError(
                f"{self.name} is an HDF5 file without {' and '.join(absent)}, so it is no h5ad file: save it "
                "with adata.write_h5ad(...)"
            )
        self._obs = self._read("obs")
        self.genes = tuple(str(gene) for gene in self._read("var").index)
        self.names = self._obs.index.to_numpy(dtype=object).astype(str).astype(object)
        self.shape = (len(self._obs), len(self.genes))
        self.obs: list[str] = [str(column) for column in self._obs.columns]
        self.obsm: list[str] = sorted(self._file["obsm"]) if "obsm" in self._file else []

    def close(self) -> None:
        self._file.close()

    def column(self, key: str) -> tuple[np.ndarray, np.ndarray]:
        """Values of a column of `obs`, and where they are missing."""
        series = self._obs[key]
        return series.to_numpy(dtype=object), series.isna().to_numpy()

    def embedding(self, key: str) -> Any:
        return self._read(f"obsm/{key}")

    def notes(self) -> dict[str, str]:
        """What `uns` says of the origin and of the unit of positions, where it says so in words."""
        places = {"position_unit": ["uns/spatial_unit"], "source": ["uns/source/citation", "uns/source"]}
        notes = {}
        for fact, wheres in places.items():
            present = [where for where in wheres if where in self._file]
            value = self._read(present[0]) if present else None
            if isinstance(value, str):
                notes[fact] = value
        return notes

    def matrix(self, where: str, *, backed: bool) -> np.ndarray | sp.csr_matrix | DiskMatrix:
        """`X` or a layer: as float32 in memory, or as rows on disk.

        Raises:
            UserError: there is no such layer, it does not fit `obs` and `var`, or it cannot be read by row.
        """
        if where not in self._file:
            layers = ", ".join(self._file.get("layers", {})) or "none"
            raise UserError(
                f"{self.name} has no {where}: set `layer` to one of its layers ({layers}), or leave it empty for X"
            )
        node = self._file[where]
        kind = node.attrs.get("encoding-type", "array")
        if kind not in ("array", "csr_matrix", "csc_matrix"):
            raise UserError(f"{self.name}: {where} is stored as {kind!r}, and a dense, CSR or CSC matrix is wanted")
        with self._reading(where):
            shape = tuple(int(n) for n in (node.shape if kind == "array" else node.attrs["shape"]))
            stored = (node if kind == "array" else node["data"]).dtype
        if stored.kind not in "buif":
            raise UserError(f"{self.name}: {where} holds {stored}, and real numbers are wanted: save it as floats")
        if shape != self.shape:
            raise UserError(
                f"{self.name}: {where} is {shape[0]} x {shape[-1]} and obs x var is {self.shape[0]} x {self.shape[1]}: "
                "the file is damaged, save it again"
            )
        if backed and kind == "csc_matrix":
            raise UserError(
                f"{self.name}: {where} is stored by column (CSC), which cannot be read by row from disk: "
                "save it as CSR, or set backed = false"
            )
        if backed:
            return DiskMatrix(self, where, shape, sparse=kind == "csr_matrix")
        values = self._read(where)
        if kind == "array":
            return np.asarray(values, np.float32)
        out = sp.csr_matrix(values).astype(np.float32)
        out.sum_duplicates()
        return out

    def is_sparse(self, where: str) -> bool:
        """Whether a matrix is stored without its zeros."""
        return where in self._file and self._file[where].attrs.get("encoding-type") in ("csr_matrix", "csc_matrix")

    def by_column(self, where: str) -> bool:
        """Whether a matrix is stored by column, so that no row can be read alone."""
        return where in self._file and self._file[where].attrs.get("encoding-type") == "csc_matrix"

    def lines(self, where: str, index: np.ndarray | slice, *, sparse: bool) -> Any:
        """Rows of a matrix on disk, in rising order."""
        from anndata.io import sparse_dataset

        with self._reading(where):
            node = self._file[where]
            return sp.csr_matrix(sparse_dataset(node)[index]) if sparse else node[index]

    def _read(self, where: str) -> Any:
        from anndata.io import read_elem

        with self._reading(where):
            return read_elem(self._file[where])

    @contextmanager
    def _reading(self, what: str) -> Iterator[None]:
        # h5py and anndata raise errors of many kinds for a damaged file, which mean the same to whoever named it.
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                yield
        except MemoryError:
            raise
        except Exception as error:
            reason = " ".join(str(error).split())[:160]
            raise UserError(
                f"{self.name} cannot be read as an h5ad file, reading {what} failed ({reason}): "
                "copy or download it again, or save it anew with adata.write_h5ad(...)"
            ) from error


@final
class DiskMatrix:
    """A matrix that stays in its file; rows are read when they are asked for."""

    def __init__(self, file: AnnDataFile, where: str, shape: tuple[int, ...], *, sparse: bool) -> None:
        self._file = file
        self._where = where
        self._sparse = sparse
        self.shape = shape

    def __getitem__(self, index_k: np.ndarray) -> np.ndarray | sp.csr_matrix:
        # HDF5 selects in rising order only, and a whole run far faster as a slice.
        order_k = np.argsort(index_k, kind="stable")
        rising_k = index_k[order_k]
        whole = len(rising_k) == rising_k[-1] - rising_k[0] + 1
        chosen = slice(int(rising_k[0]), int(rising_k[-1]) + 1) if whole else rising_k
        rows = self._file.lines(self._where, chosen, sparse=self._sparse)
        back_k = np.argsort(order_k, kind="stable")
        out = rows[back_k]
        if self._sparse:
            out.sum_duplicates()
        return out
