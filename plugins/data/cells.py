"""A table of cells with positions, and what must hold before anything is prepared from it.

n cells, G genes, P axes of space (2 or 3), S sections, k chosen rows.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any, Protocol, TypeAlias, final

import attrs
import numpy as np
import scipy.sparse as sp

from core.errors import UserError

BLOCK = 1 << 22
"""entries of a dense block that are in memory at once while a whole matrix is walked"""


Block: TypeAlias = Any
"""rows of a matrix, np.ndarray or sp.csr_matrix; scipy has no types, so that a union of the two says nothing to mypy"""


class Rows(Protocol):
    """A matrix that gives rows by index: an array, a CSR matrix, or one that stays on disk."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __getitem__(self, index: Any, /) -> Any: ...


@final
@attrs.frozen(kw_only=True, eq=False)
class CellTable:
    """Cells of one or more sections. Sections and cell types are codes into their names."""

    counts: Rows
    """(n, G); dense or CSR, whole numbers or any other measure of expression"""
    position_nP: np.ndarray
    """float64, in the unit of the input; sections need not share a frame"""
    section_n: np.ndarray
    """int64 codes into `sections`"""
    sections: tuple[str, ...]
    """in the order of `ordered`, each with at least one cell"""
    type_n: np.ndarray
    """int64 codes into `types`, -1 where no type is known"""
    types: tuple[str, ...]
    genes: tuple[str, ...]
    where: Mapping[str, str]
    """how an error message calls the `expression`, the `position` and the `section` of the input"""

    @property
    def cells(self) -> int:
        return len(self.section_n)

    @property
    def dims(self) -> int:
        return self.position_nP.shape[1]

    def rows(self, index_k: np.ndarray) -> Block:
        """Rows as float32 (k, G), dense or CSR as they are stored."""
        return self.counts[index_k].astype(np.float32, copy=False)

    def blocks(self, index_k: np.ndarray) -> Iterator[Block]:
        """Rows a block at a time, so that no whole matrix becomes dense. Blocks do not depend on how it is stored."""
        size = max(1, BLOCK // max(1, len(self.genes)))
        for start in range(0, len(index_k), size):
            yield self.rows(index_k[start : start + size])

    def content(self) -> str:
        """SHA-256 over every value and name."""
        digest = hashlib.sha256(json.dumps([self.sections, self.types, self.genes]).encode())
        for array in (self.position_nP, self.section_n, self.type_n):
            digest.update(np.ascontiguousarray(array).tobytes())
        for block in self.blocks(np.arange(self.cells)):
            digest.update(dense(block).tobytes())
        return digest.hexdigest()

    def check(self) -> None:
        """Refuse what no model of cells in space can use.

        Raises:
            UserError: no cell or gene, a gene twice, a position that is not finite, a section of one cell, or a
                section whose cells are all at one place.
        """
        said = self.where
        if not self.cells or not self.genes:
            raise UserError(f"{said['expression']} is empty ({self.cells} cells x {len(self.genes)} genes)")
        seen: set[str] = set()
        twice = [gene for gene in self.genes if gene in seen or seen.add(gene)]  # type: ignore[func-returns-value]
        if twice:
            raise UserError(
                f"{said['expression']} names {len(twice)} gene(s) more than once, the first is {twice[0]!r}: "
                "sum or rename them (adata.var_names_make_unique()) and save the file again"
            )
        finite_n = np.isfinite(self.position_nP).all(axis=1)
        if not finite_n.all():
            raise UserError(
                f"{said['position']} is NaN or infinite for {int((~finite_n).sum())} of {self.cells} cells, the first "
                f"in row {int(np.argmin(finite_n))}: remove these cells, or name another key with `position`"
            )
        for code, section in enumerate(self.sections):
            place_kP = self.position_nP[self.section_n == code]
            if len(place_kP) == 1:
                raise UserError(
                    f"{said['section']}: section {section!r} has a single cell, so it has no distances to learn or to "
                    "judge: remove that cell, or name another column with `section`"
                )
            if np.ptp(place_kP, axis=0).max() == 0:
                raise UserError(
                    f"{said['position']} puts all {len(place_kP)} cells of section {section!r} at one place: "
                    "name another key with `position`, or remove the section"
                )


def dense(block: Block) -> np.ndarray:
    """A block of rows as a dense array."""
    return block.toarray() if sp.issparse(block) else np.asarray(block)


def stored(block: Block) -> np.ndarray:
    """The values that are stored: all of a dense block, the explicit ones of a sparse block."""
    return block.data if sp.issparse(block) else np.asarray(block)


def ordered(names: set[str]) -> tuple[str, ...]:
    """Names in the order a reader expects: by number if all are numbers, else `layer2` before `layer10`."""
    try:
        numbers = {name: float(name) for name in names}
    except ValueError:
        numbers = {}
    if numbers and all(math.isfinite(number) for number in numbers.values()):
        return tuple(sorted(names, key=lambda name: (numbers[name], name)))
    parts = {name: re.split(r"([0-9]+)", name) for name in names}
    return tuple(sorted(names, key=lambda name: ([int(p) if i % 2 else p for i, p in enumerate(parts[name])], name)))
