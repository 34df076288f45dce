"""A table of cells served as padded sets of cells of one section.

B sets, N cells of a set, G genes, P axes of space, n cells of the table, k chosen rows.
"""

from __future__ import annotations

import hashlib
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, Literal, final

import attrs
import numpy as np
import torch

from core.kinds.data import Batch, Card, Source, Split
from core.params import knob, params
from core.train.streams import Streams
from plugins.data.cells import CellTable
from plugins.data.cut import Cut, divide
from plugins.data.prepare import Preparation, Prepare, fit, survey
from plugins.data.tiles import patches

SPLITS = ("train", "valid", "test")


@final
@params
class Sets:
    """How cells are grouped for training. A set holds cells of one section only."""

    size: int = knob(
        512, "most cells of a set; a section's cells are dealt evenly over as few sets as that takes", ge=2
    )
    per_batch: int = knob(2, "sets of a batch", ge=1)
    draw: Literal["random", "patch", "section"] = knob(
        "random",
        "which cells of a section make a set: any, drawn anew each epoch; neighbours, cut anew each epoch; or all",
    )

    def count(self, cells: int) -> int:
        """Sets that so many cells of a section make."""
        return 1 if self.draw == "section" else math.ceil(cells / self.size)

    def deal(self, position_nP: np.ndarray, generator: torch.Generator) -> list[np.ndarray]:
        """Cells of a section in sets, as indices into them; each cell is in exactly one."""
        cells = len(position_nP)
        if self.draw == "patch":
            seed = int(torch.randint(2**62, (), generator=generator))
            return patches(position_nP, self.count(cells), np.random.default_rng(seed))
        return np.array_split(torch.randperm(cells, generator=generator).numpy(), self.count(cells))

    def largest(self, cells: np.ndarray) -> int:
        """Cells of the largest set that sections of so many cells make."""
        return int(max(math.ceil(count / self.count(count)) for count in cells.tolist()))


class Truth(ABC):
    """What a simulator knows of the cells it made."""

    @abstractmethod
    def expression(self, index_k: np.ndarray, fitted: Preparation) -> np.ndarray:
        """Mean of the transformed expression (k, G) given position and section."""

    @abstractmethod
    def position(self, index_k: np.ndarray) -> np.ndarray:
        """Mean of the position (k, P), in input units, given counts and section."""


@final
class CellSplit(Split):
    """The cells of one split. An epoch's plan is a function of streams and epoch; only the last one is kept."""

    def __init__(self, source: CellSource, rows: np.ndarray, streams: Streams) -> None:
        self._source = source
        self._streams = streams
        codes = source.table.section_n[rows]
        self._parts = [rows[codes == code] for code in np.unique(codes)]
        self._plan: tuple[int, list[np.ndarray]] | None = None

    def batches(self, epoch: int) -> int:
        sets = sum(self._source.sets.count(len(part)) for part in self._parts)
        return math.ceil(sets / self._source.sets.per_batch)

    def batch(self, epoch: int, index: int) -> Batch:
        """Sets of an epoch.

        Raises:
            IndexError: the epoch has no batch of that index.
        """
        if not 0 <= index < self.batches(epoch):
            raise IndexError(f"batch {index} of epoch {epoch}: there are {self.batches(epoch)}")
        if self._plan is None or self._plan[0] != epoch:
            self._plan = (epoch, self._deal(epoch))
        width = self._source.sets.per_batch
        return self._source.collate(self._plan[1][index * width : (index + 1) * width])

    def units(self) -> Iterator[Batch]:
        for part in self._parts:
            yield self._source.collate([part])

    def _deal(self, epoch: int) -> list[np.ndarray]:
        generator = self._streams.generator("order", epoch)
        sets = []
        for part in self._parts:
            sets += [part[chosen] for chosen in self._source.sets.deal(self._source.table.position_nP[part], generator)]
        return [sets[i] for i in torch.randperm(len(sets), generator=generator).tolist()]


@final
class CellSource(Source):
    """Cells, cut and prepared.

    Fields of a batch:

    - `expression` (B, N, G) float32: transformed, in deviations from the mean of the training cells, clipped;
    - `position` (B, N, P) float32: from the centre of the section (the mean over all its cells, so the frame of a
      held-out section is given), in units of one scale for the whole table;
    - `cell_type` (B, N) int64: code into the names of `cell_types`, -1 where none is known;
    - `index` (B, N) int64: row in the table.

    On padding, expression and position are 0, cell type and index -1.

    Args:
        name: what the card is called.
        table: the cells; checked here.
        content: SHA-256 of everything that `table` was made from.
        said: facts of the input to put on the card.
        truth: what a simulator knows; without it the oracle is empty.

    Raises:
        UserError: a table that cannot be used, cut or transformed.
    """

    def __init__(
        self,
        name: str,
        table: CellTable,
        *,
        content: str,
        sets: Sets,
        cut: Cut,
        prepare: Prepare,
        said: Mapping[str, Any],
        truth: Truth | None = None,
    ) -> None:
        table.check()
        self.table = table
        self.sets = sets
        self._truth = truth
        self._division = divide(table, cut)
        seen = survey(table)
        self._fitted = fit(table, self._division.rows["train"], prepare, seen)
        knobs = [attrs.asdict(group) for group in (sets, cut, prepare)]  # type: ignore[arg-type]
        said = dict(said, zeros=round(seen.zeros, 4))
        self._card = self._describe(name, said, json.dumps([content, knobs], sort_keys=True))

    def describe(self) -> Card:
        return self._card

    def split(self, name: str, streams: Streams) -> CellSplit:
        """One of the three splits.

        Raises:
            ValueError: no split is called so.
        """
        if name not in SPLITS:
            raise ValueError(f"no split is called {name!r}: there are {', '.join(SPLITS)}")
        return CellSplit(self, self._division.rows[name], streams)

    def names(self, what: str) -> tuple[str, ...]:
        """Names of the `genes`, the `cell_types` (none where no type is known) or the `sections`.

        Raises:
            KeyError: any other word.
        """
        known = {"genes": self.table.genes, "cell_types": self.table.types, "sections": self.table.sections}
        if what not in known:
            raise KeyError(f"no names of {what!r}: there are names of {', '.join(known)}")
        return known[what]

    def restore(self, field: str, values: np.ndarray) -> np.ndarray:
        """Back from model units, as float64.

        `expression` returns to the transformed scale (a logarithm, where one was taken), not to counts: totals are not
        kept, and what was clipped stays clipped. `position` returns to input units relative to the section's centre.

        Raises:
            ValueError: the field has no scale.
        """
        if field == "expression":
            return np.asarray(values, np.float64) * self._fitted.std_G + self._fitted.mean_G
        if field == "position":
            return np.asarray(values, np.float64) * self._fitted.scale
        raise ValueError(f"{field!r} has no scale to restore: the fields that have are expression, position")

    def oracle(self, unit: Batch) -> dict[str, np.ndarray]:
        if self._truth is None:
            return {}
        rows = unit.fields["index"][unit.real_BN].cpu().numpy()
        sections = self.table.section_n[rows]
        return {
            "expression": self._fitted.standardised(self._truth.expression(rows, self._fitted)),
            "position": self._fitted.placed(self._truth.position(rows), sections),
        }

    def collate(self, sets: list[np.ndarray]) -> Batch:
        """Sets of rows, each of one section, as a padded batch."""
        real_BN = np.arange(max(map(len, sets)))[None] < np.array([len(rows) for rows in sets])[:, None]
        rows_k = np.concatenate(sets)
        values: dict[str, tuple[np.ndarray, int]] = {
            "expression": (self._fitted.expression(self.table, rows_k), 0),
            "position": (self._fitted.position(self.table, rows_k), 0),
            "cell_type": (self.table.type_n[rows_k], -1),
            "index": (rows_k.astype(np.int64), -1),
        }
        fields = {}
        for field, (value, blank) in values.items():
            padded = np.full((*real_BN.shape, *value.shape[1:]), blank, value.dtype)
            padded[real_BN] = value
            fields[field] = torch.from_numpy(padded)
        units = tuple(self.table.sections[self.table.section_n[rows[0]]] for rows in sets)
        return Batch(fields, torch.from_numpy(real_BN), units)

    def _describe(self, name: str, said: Mapping[str, Any], identity: str) -> Card:
        table, rows = self.table, self._division.rows
        train = np.bincount(table.section_n[rows["train"]])
        train = train[train > 0]
        sets = sum(map(self.sets.count, train.tolist()))
        sections = {
            section: {"cells": int((table.section_n == code).sum())}
            | {name: int((table.section_n[rows[name]] == code).sum()) for name in SPLITS}
            for code, section in enumerate(table.sections)
        }
        facts = {
            **said,
            "cells": table.cells,
            "genes": len(table.genes),
            "dims": table.dims,
            "cell_types": len(table.types),
            "untyped_cells": int((table.type_n < 0).sum()),
            "constant_genes": int((self._fitted.std_G == 0).sum()),
            "sections": sections,
            "split": self._division.sentence,
            "transform": self._fitted.reason,
            "position": f"from the centre of each section, in units of {self._fitted.scale:.6g} of the input's",
        }
        return Card(
            name=name,
            sizes={
                "genes": len(table.genes),
                "dims": table.dims,
                "cell_types": len(table.types),
                "set_size": self.sets.largest(train),
                "sets_per_batch": min(self.sets.per_batch, sets),
            },
            splits={name: len(rows[name]) for name in SPLITS},
            fingerprint=hashlib.sha256(identity.encode()).hexdigest(),
            facts=facts,
        )
