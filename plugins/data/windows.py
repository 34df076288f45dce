"""What of a prepared folder is in memory at once: row groups, and windows of them.

n cells of a window, G genes, P axes of space.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import final

import attrs
import numpy as np

from plugins.data.cells import Block
from plugins.data.division import SPLITS
from plugins.data.stage2 import FOLDERS


@final
@attrs.frozen
class Chunk:
    """A row group of a shard: cells of one section."""

    file: str
    number: int
    section: int
    cells: int
    first: int
    """index of its first cell in the data set"""


@final
@attrs.frozen(eq=False)
class Window:
    """Decoded chunks, those of a section side by side."""

    chunks: tuple[Chunk, ...]
    values: Block
    """(n, G) as stored, dense or CSR"""
    position_nP: np.ndarray
    """from the centre of each cell's section, in model units"""
    type_n: np.ndarray
    index_n: np.ndarray
    spans: tuple[tuple[int, int, int], ...]
    """(section, first, end) of each section's rows"""


def chunks_of(shards: Mapping[str, Sequence[Sequence[int]]]) -> dict[str, list[Chunk]]:
    """The row groups of each split, numbered through."""
    found: dict[str, list[Chunk]] = {name: [] for name in SPLITS}
    first = 0
    for split in SPLITS:
        for file, groups in shards.items():
            if not file.startswith(f"data/{FOLDERS[split]}-"):
                continue
            for number, (section, cells) in enumerate(groups):
                found[split].append(Chunk(file, number, section, cells, first))
                first += cells
    return found


def packed(parts: Sequence[Sequence[Chunk]], room: int) -> list[list[Chunk]]:
    """Successive parts put together while they fit; a part larger than the room stands alone."""
    done: list[list[Chunk]] = []
    filled = room
    for part in parts:
        cells = sum(chunk.cells for chunk in part)
        if filled + cells > room:
            done.append([])
            filled = 0
        done[-1] += part
        filled += cells
    return done


def by_section(chunks: Sequence[Chunk]) -> dict[int, int]:
    """Cells of each section, in the order of the chunks."""
    cells: dict[int, int] = {}
    for chunk in chunks:
        cells[chunk.section] = cells.get(chunk.section, 0) + chunk.cells
    return cells
