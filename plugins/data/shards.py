"""Cells in Parquet: one row a cell, one section a row group.

n cells, G genes, P axes of space.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, final

import attrs
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import scipy.sparse as sp

from core.errors import UserError
from plugins.data.cells import Block

GROUP = 1024
"""most rows of a row group"""
GROUP_BYTES = 1 << 21
"""about the most bytes of expression in a row group, decoded"""
KEY = b"cellcore.key"
"""metadata of a file: the key of the folder that it belongs to"""


@final
@attrs.frozen(eq=False)
class Cells:
    """Some cells of one section."""

    values: Block
    """(n, G) float32, dense or CSR"""
    position_nP: np.ndarray
    """float64, in units of the input"""
    type_n: np.ndarray
    """int64, -1 where no type is known"""
    total_n: np.ndarray
    """float64, sum over the panel before anything was done"""
    name_n: np.ndarray
    """the cells' names in the input"""

    def __len__(self) -> int:
        return len(self.type_n)

    def take(self, index: Any) -> Cells:
        return Cells(*(getattr(self, field.name)[index] for field in attrs.fields(Cells)))

    @classmethod
    def join(cls, parts: Sequence[Cells]) -> Cells:
        """Parts one after the other."""
        if len(parts) == 1:
            return parts[0]
        values = [part.values for part in parts]
        joined = sp.vstack(values, format="csr") if sp.issparse(values[0]) else np.concatenate(values)
        rest = [f.name for f in attrs.fields(cls)][1:]
        return cls(joined, *(np.concatenate([getattr(part, name) for part in parts]) for name in rest))


def group_rows(genes: int, *, sparse: bool) -> int:
    """Rows of a row group; sparse rows are reckoned as filled to a tenth."""
    return int(np.clip(GROUP_BYTES // (genes * (1 if sparse else 4)), 16, GROUP))


def schema(genes: int, dims: int, *, sparse: bool) -> pa.Schema:
    """The columns of a file; none of them may be null."""

    def vector(kind: pa.DataType, length: int) -> pa.DataType:
        return pa.list_(pa.field("element", kind, nullable=False), length)

    expression = [("expression", vector(pa.float32(), genes))]
    if sparse:
        expression = [("indices", vector(pa.int32(), -1)), ("values", vector(pa.float32(), -1))]
    rest = [
        ("position", vector(pa.float64(), dims)),
        ("section", pa.string()),
        ("cell_type", pa.int64()),
        ("total", pa.float64()),
        ("cell", pa.string()),
    ]
    return pa.schema([pa.field(name, kind, nullable=False) for name, kind in [*expression, *rest]])


@final
class Writer:
    """A Parquet file of cells at a path that the caller makes final."""

    def __init__(self, path: Path, genes: int, dims: int, *, sparse: bool, key: str) -> None:
        self._schema = schema(genes, dims, sparse=sparse).with_metadata({KEY: key.encode()})
        self._sparse = sparse
        self._writer = pq.ParquetWriter(
            path,
            self._schema,
            compression="zstd",
            use_dictionary=["section"],
            write_statistics=False,
            write_page_checksum=True,
        )

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *error: object) -> None:
        self._writer.close()

    def write(self, section: str, cells: Cells) -> None:
        """One row group."""
        count = len(cells)
        arrays: list[pa.Array] = []
        if self._sparse:
            offsets = pa.array(cells.values.indptr.astype(np.int32))
            for name, data in (("indices", cells.values.indices.astype(np.int32)), ("values", cells.values.data)):
                arrays.append(pa.ListArray.from_arrays(offsets, pa.array(data), type=self._schema.field(name).type))
        else:
            arrays.append(self._fixed("expression", cells.values))
        arrays += [
            self._fixed("position", cells.position_nP),
            pa.array([section] * count, pa.string()),
            pa.array(cells.type_n, pa.int64()),
            pa.array(cells.total_n, pa.float64()),
            pa.array(cells.name_n, pa.string()),
        ]
        self._writer.write_table(pa.Table.from_arrays(arrays, schema=self._schema), row_group_size=max(1, count))

    def _fixed(self, name: str, values: np.ndarray) -> pa.Array:
        flat = pa.array(np.ascontiguousarray(values).ravel())
        return pa.FixedSizeListArray.from_arrays(flat, type=self._schema.field(name).type)


@final
class Reader:
    """A Parquet file of cells, read by row group.

    Raises:
        UserError: the file is damaged, or belongs to another folder.
    """

    def __init__(self, path: Path, genes: int, dims: int, *, sparse: bool, key: str) -> None:
        self._path = path
        self._genes, self._dims, self._sparse = genes, dims, sparse
        try:
            self._file = pq.ParquetFile(path, page_checksum_verification=True)
        except (pa.ArrowException, OSError) as error:
            raise self._damaged(error) from None
        own = self._file.schema_arrow
        if (own.metadata or {}).get(KEY) != key.encode() or not own.equals(schema(genes, dims, sparse=sparse)):
            self.close()
            raise UserError(
                f"{path} is a shard of another data set, or of an earlier version of this one: make the folder anew"
            )

    def close(self) -> None:
        self._file.close()

    def group(self, number: int, *, full: bool = True) -> Cells:
        """A row group; without `full`, totals and names are left empty."""
        wanted = ["indices", "values"] if self._sparse else ["expression"]
        wanted += ["position", "cell_type", *(("total", "cell") if full else ())]
        try:
            table = self._file.read_row_group(number, columns=wanted, use_threads=False)
        except (pa.ArrowException, OSError) as error:
            raise self._damaged(error) from None
        count = len(table)
        columns = {name: table.column(name).combine_chunks() for name in wanted}
        if self._sparse:
            starts = _numbers(columns["indices"].offsets, np.int32)
            rows = slice(starts[0], starts[-1]) if count else slice(0, 0)
            parts = (
                _numbers(columns["values"].values, np.float32)[rows],
                _numbers(columns["indices"].values, np.int32)[rows],
                starts - starts[0] if count else np.zeros(1, np.int32),
            )
            values: Block = sp.csr_matrix(parts, shape=(count, self._genes))
        else:
            values = _vectors(columns["expression"], np.float32, self._genes)
        return Cells(
            values,
            _vectors(columns["position"], np.float64, self._dims),
            _numbers(columns["cell_type"], np.int64),
            _numbers(columns["total"], np.float64) if full else np.empty(0),
            columns["cell"].to_numpy(zero_copy_only=False) if full else np.empty(0, object),
        )

    def _damaged(self, error: Exception) -> UserError:
        reason = " ".join(str(error).split())[:160]
        return UserError(f"{self._path} cannot be read as Parquet ({reason}): it is damaged; make the folder anew")


def _numbers(array: pa.Array, kind: type[np.generic]) -> np.ndarray:
    """The numbers of an array without nulls, as they lie in memory.

    Arrow's own `to_numpy` gives the same, but imports pandas first: a third of a second that a first batch waits for.
    """
    if not len(array):
        return np.empty(0, kind)
    return np.frombuffer(array.buffers()[1], kind, len(array), array.offset * np.dtype(kind).itemsize)


def _vectors(array: pa.FixedSizeListArray, kind: type[np.generic], width: int) -> np.ndarray:
    """Rows (n, width) of an array of vectors without nulls, as they lie in memory."""
    first = array.offset * width
    return _numbers(array.values, kind)[first : first + len(array) * width].reshape(len(array), width)
