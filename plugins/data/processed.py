"""Prepared data sets, read from Parquet a window at a time.

B sets, N cells of a set, G genes, P axes of space, S sections, n cells of a window.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, final

import attrs
import numpy as np
import scipy.sparse as sp
import torch

from core.identity import digest
from core.kinds.data import Batch, Card, Data, Source, Split
from core.listed import Listed, read_listed
from core.params import group, knob, params
from core.train.streams import Streams
from plugins.data.cells import Block
from plugins.data.division import SPLITS
from plugins.data.like import Keys, NewCells, read_like
from plugins.data.prepare import FLAT
from plugins.data.sets import Sets
from plugins.data.shards import Reader
from plugins.data.stage2 import MADE
from plugins.data.staged import told
from plugins.data.transform import Fitted
from plugins.data.windows import Chunk, Window, by_section, chunks_of, packed

OPEN_FILES = 8
"""shards that are open at once"""
MIXED = 64
"""parts of sections that a window mixes, where sections are large: the more, the less an epoch remembers of the file"""
SETS = {"random": 4, "patch": 16}
"""sets that a part of a section makes at least, so that none is small; patches need room around them"""


@final
@params
class Processed(Data):
    """A folder of `core data prepare` or `core data stage2`: cells in Parquet, split when they were prepared.

    Where the training cells fit into `memory` they are decoded once and kept; a larger set streams: each epoch takes
    its sections (or parts of those that are large) in a random order, a window of `memory` at a time, and deals the
    cells of each window at random. Either way every cell comes exactly once an epoch.
    """

    applied_by: ClassVar[tuple[str, ...]] = ("position", "section", "cell_type", "layer")

    path: str = knob("processed", "the folder; its content counts for a run, not its place", identity=False)
    reading: Literal["auto", "map", "stream"] = knob(
        "auto", "map: keep all decoded cells in memory; stream: a window of them; auto: map where they fit"
    )
    memory: float = knob(512.0, "decoded cells that are held at once", gt=0, unit="MiB", acts="reading!=map")
    clip: float = knob(10.0, "standardised expression is held within +- this many deviations", gt=0, unit="sd")
    sets: Sets = group("how cells are grouped for training")
    position: str = knob("", "of raw files shown to a trained model: key of `obsm`; empty: as prepared", identity=False)
    section: str = knob("", "of such files: column of `obs` that names sections; empty: as prepared", identity=False)
    cell_type: str = knob("", "of such files: column of `obs` that names types; empty: as prepared", identity=False)
    layer: str = knob("", "of such files: layer to read expression from; empty: as prepared", identity=False)

    def open(self) -> ProcessedSource:
        """Check the folder against its manifest and read its metadata; no cell yet.

        Raises:
            UserError: no such folder, one that was made by another command or is unfinished, or that holds files which
                its manifest does not list or not in that size.
        """
        return ProcessedSource(read_listed(Path(self.path).expanduser(), MADE), self)

    def like(self, path: Path, preparation: Mapping[str, Any], needs: Collection[str]) -> NewCells:
        """Cells of a raw file: stage 1, then this loader; see `plugins.data.like.read_like`."""
        asked = {"position": self.position, "section": self.section, "cell_type": self.cell_type, "layer": self.layer}
        read = preparation["staged"]["read"] if "staged" in preparation else {}
        return read_like(path, preparation, needs, Keys(**{**read, **{k: v for k, v in asked.items() if v}}))


@final
class ProcessedSplit(Split):
    """One split of a folder. Only one window of it is in memory."""

    def __init__(self, source: ProcessedSource, chunks: Sequence[Chunk], streams: Streams) -> None:
        self._source = source
        self._streams = streams
        # The rows of a section stand together in a window, so its chunks do from the start.
        self._chunks = tuple(sorted(chunks, key=lambda chunk: (chunk.section, chunk.first)))
        self._plan: tuple[int, list[tuple[Chunk, ...]], list[int]] | None = None
        self._held: Window | None = None
        self._dealt: tuple[int, int, list[np.ndarray]] | None = None

    def batches(self, epoch: int) -> int:
        return self._windows(epoch)[1][-1]

    def batch(self, epoch: int, index: int) -> Batch:
        """Sets of an epoch.

        Raises:
            IndexError: the epoch has no batch of that index.
        """
        windows, ends = self._windows(epoch)
        if not 0 <= index < ends[-1]:
            raise IndexError(f"batch {index} of epoch {epoch}: there are {ends[-1]}")
        number = bisect.bisect_right(ends, index)
        window = self._window(windows[number])
        if self._dealt is None or self._dealt[:2] != (epoch, number):
            self._dealt = (epoch, number, self._deal(window, epoch, number))
        width = self._source.sets.per_batch
        start = (index - (ends[number - 1] if number else 0)) * width
        return self._source.collate(window, self._dealt[2][start : start + width])

    def units(self) -> Iterator[Batch]:
        for _, chunks in itertools.groupby(self._chunks, key=lambda chunk: chunk.section):
            window = self._source.load(tuple(chunks))
            yield self._source.collate(window, [np.arange(len(window.index_n))])

    def _windows(self, epoch: int) -> tuple[list[tuple[Chunk, ...]], list[int]]:
        """The windows of an epoch, and behind which batch each ends."""
        if self._plan is None or self._plan[0] != epoch:
            windows = self._arrange(self._streams.generator("order", epoch))
            width = self._source.sets.per_batch
            sets = [sum(map(self._source.sets.count, by_section(window).values())) for window in windows]
            self._plan = (epoch, windows, list(itertools.accumulate(-(-count // width) for count in sets)))
        return self._plan[1:]

    def _arrange(self, generator: torch.Generator) -> list[tuple[Chunk, ...]]:
        """All chunks in windows: parts of sections, in random order, as many as fit."""
        room = self._source.room
        if room is None or sum(chunk.cells for chunk in self._chunks) <= room:
            return [self._chunks]
        draw, size = self._source.sets.draw, self._source.sets.size
        part = min(room, max(SETS.get(draw, 0) * size, room // MIXED))
        parts: list[list[Chunk]] = []
        for _, group_ in itertools.groupby(self._chunks, key=lambda chunk: chunk.section):
            chunks = list(group_)
            if draw == "section":
                parts.append(chunks)
                continue
            if draw == "random":
                chunks = [chunks[i] for i in torch.randperm(len(chunks), generator=generator).tolist()]
            else:  # patches are of neighbours, and so are successive chunks; each epoch cuts them elsewhere
                start = int(torch.randint(len(chunks), (), generator=generator))
                chunks = chunks[start:] + chunks[:start]
            parts += packed([[chunk] for chunk in chunks], part)
        mixed = [parts[i] for i in torch.randperm(len(parts), generator=generator).tolist()]
        windows = packed(mixed, room)
        return [tuple(sorted(window, key=lambda chunk: (chunk.section, chunk.first))) for window in windows]

    def _window(self, chunks: tuple[Chunk, ...]) -> Window:
        if self._held is None or self._held.chunks != chunks:
            self._held = None  # given up before the next is read, so that there are never two
            self._held = self._source.load(chunks)
        return self._held

    def _deal(self, window: Window, epoch: int, number: int) -> list[np.ndarray]:
        generator = self._streams.generator("order", epoch, number)
        sets = []
        for _, first, end in window.spans:
            sets += [first + chosen for chosen in self._source.sets.deal(window.position_nP[first:end], generator)]
        return [sets[i] for i in torch.randperm(len(sets), generator=generator).tolist()]


@final
class ProcessedSource(Source):
    """An opened folder. Fields of a batch are those of `plugins.data.sets.CellSource`."""

    def __init__(self, listed: Listed, knobs: Processed) -> None:
        said: Mapping[str, Any] = listed.json("metadata.json")
        self._listed = listed
        self._said = said
        self.sets = knobs.sets
        self._clip = np.float32(knobs.clip)
        model = said["model"]
        self._mean_G, std_G = np.array(model["mean"]), np.array(model["std"])
        self._std_G = np.where(std_G > FLAT * (1 + np.abs(self._mean_G)), std_G, 0.0)
        self._slope_G = ((self._std_G > 0) / np.where(self._std_G > 0, self._std_G, 1.0)).astype(np.float32)
        self._centre_SP = np.array([section["centre"] for section in said["sections"]])
        self._chunks = chunks_of(said["shards"])
        self._readers: dict[str, Reader] = {}
        filled = 0.1 * 8 if said["sparse"] else 4.0
        each = filled * len(said["genes"]) + 8 * said["dims"] + 16
        room = max(1, int(knobs.memory * 2**20 / each))
        kept = knobs.reading == "map" or (knobs.reading == "auto" and said["splits"]["train"] <= room)
        self.room = None if kept else room
        """cells of a window; None: all"""
        self._card = self._describe(knobs)

    def describe(self) -> Card:
        return self._card

    def split(self, name: str, streams: Streams) -> ProcessedSplit:
        """One of the three splits, as it was prepared.

        Raises:
            ValueError: no split is called so.
        """
        if name not in SPLITS:
            raise ValueError(f"no split is called {name!r}: there are {', '.join(SPLITS)}")
        return ProcessedSplit(self, self._chunks[name], streams)

    def names(self, what: str) -> tuple[str, ...]:
        """Names of the `genes`, the `cell_types` or the `sections`.

        Raises:
            KeyError: any other word.
        """
        known = {
            "genes": self._said["genes"],
            "cell_types": self._said["cell_types"],
            "sections": [section["name"] for section in self._said["sections"]],
        }
        if what not in known:
            raise KeyError(f"no names of {what!r}: there are names of {', '.join(known)}")
        return tuple(known[what])

    def restore(self, field: str, values: np.ndarray) -> np.ndarray:
        """Back from model units, as float64.

        `expression` returns to what the files hold, which `statistics` turns back into counts; what was clipped stays
        clipped. `position` returns to input units relative to the section's centre.

        Raises:
            ValueError: the field has no scale.
        """
        if field == "expression":
            return np.asarray(values, np.float64) * self._std_G + self._mean_G
        if field == "position":
            return np.asarray(values, np.float64) * self._said["model"]["scale"]
        raise ValueError(f"{field!r} has no scale to restore: the fields that have are expression, position")

    def statistics(self, section: str) -> Fitted:
        """What preprocessing did to a section: it undoes stored values, and prepares new cells alike.

        Raises:
            KeyError: no section is called so.
        """
        return Fitted.from_json(self._listed.json("statistics.json")[section])

    def preparation(self) -> dict[str, Any]:
        """What stage 1 did and what this loader does: all that raw cells need, whatever section they are from."""
        statistics = self._listed.json("statistics.json")
        return {
            "transform": "none",
            "target_sum": 1.0,
            "clip": float(self._clip),
            "mean": self._mean_G.tolist(),
            "std": self._std_G.tolist(),
            "scale": self._said["model"]["scale"],
            "dims": self._said["dims"],
            "genes": list(self._said["genes"]),
            "types": list(self._said["cell_types"]),
            "staged": told(self._said, statistics),
        }

    def standardised(self, values: Block) -> np.ndarray:
        """Stored values in model units: float32 deviations from the training mean, clipped; constant genes 0."""
        out_kG = values.toarray() if sp.issparse(values) else np.array(values, np.float32)
        return self._standardise(out_kG)

    def oracle(self, unit: Batch) -> dict[str, np.ndarray]:
        return {}

    def load(self, chunks: tuple[Chunk, ...]) -> Window:
        """Decode some chunks, those of a section side by side."""
        cells = sum(chunk.cells for chunk in chunks)
        sparse, genes, dims = self._said["sparse"], len(self._said["genes"]), self._said["dims"]
        dense_nG = np.empty((0 if sparse else cells, genes), np.float32)
        parts = []
        position_nP = np.empty((cells, dims), np.float32)
        type_n, index_n = np.empty(cells, np.int64), np.empty(cells, np.int64)
        at = 0
        for chunk in chunks:
            found, end = self._reader(chunk.file).group(chunk.number, full=False), at + chunk.cells
            if sparse:
                parts.append(found.values)
            else:
                dense_nG[at:end] = found.values
            position_nP[at:end] = (found.position_nP - self._centre_SP[chunk.section]) / self._said["model"]["scale"]
            type_n[at:end] = found.type_n
            index_n[at:end] = np.arange(chunk.first, chunk.first + chunk.cells)
            at = end
        spans, at = [], 0
        for section, count in by_section(chunks).items():
            spans.append((section, at, at + count))
            at += count
        values = sp.vstack(parts, format="csr") if sparse else dense_nG
        return Window(chunks, values, position_nP, type_n, index_n, tuple(spans))

    def collate(self, window: Window, sets: Sequence[np.ndarray]) -> Batch:
        """Sets of rows of a window, each of one section, as a padded batch."""
        sizes = [len(rows) for rows in sets]
        shape = (len(sets), max(sizes))
        real_BN = np.arange(shape[1])[None] < np.array(sizes)[:, None]
        expression = np.zeros((*shape, len(self._mean_G)), np.float32)
        position = np.zeros((*shape, window.position_nP.shape[1]), np.float32)
        codes = {"cell_type": np.full(shape, -1, np.int64), "index": np.full(shape, -1, np.int64)}
        for b, rows in enumerate(sets):
            n = sizes[b]
            if sp.issparse(window.values):
                window.values[rows].toarray(out=expression[b, :n])
            else:
                np.take(window.values, rows, axis=0, out=expression[b, :n], mode="clip")
            self._standardise(expression[b, :n])
            position[b, :n] = window.position_nP[rows]
            codes["cell_type"][b, :n] = window.type_n[rows]
            codes["index"][b, :n] = window.index_n[rows]
        fields = {"expression": expression, "position": position, **codes}
        starts = [span[1] for span in window.spans]
        owners = [window.spans[bisect.bisect_right(starts, int(rows[0])) - 1][0] for rows in sets]
        units = tuple(self._said["sections"][owner]["name"] for owner in owners)
        return Batch({k: torch.from_numpy(v) for k, v in fields.items()}, torch.from_numpy(real_BN), units)

    def _standardise(self, out_kG: np.ndarray) -> np.ndarray:
        """In place, as this is most of what a batch costs beside its reading."""
        np.subtract(out_kG, self._mean_G.astype(np.float32), out=out_kG)
        np.multiply(out_kG, self._slope_G, out=out_kG)
        return np.clip(out_kG, -self._clip, self._clip, out=out_kG)

    def _reader(self, file: str) -> Reader:
        if file not in self._readers:
            while len(self._readers) >= OPEN_FILES:
                self._readers.pop(next(iter(self._readers))).close()
            said = self._said
            self._readers[file] = Reader(
                self._listed.path / file, len(said["genes"]), said["dims"], sparse=said["sparse"], key=self._listed.key
            )
        return self._readers[file]

    def _describe(self, knobs: Processed) -> Card:
        said = self._said
        train = np.array([section["train"] for section in said["sections"] if section["train"]])
        sets = sum(map(self.sets.count, train.tolist()))
        files = {name: sha for name, (_, sha) in self._listed.files.items() if name != "README.md"}
        numbers = {
            "clip": knobs.clip, "sets": attrs.asdict(self.sets), "room": self.room,  # type: ignore[arg-type]
        }  # fmt: skip
        facts = {
            "source": f"prepared by `{MADE}`",
            "cells": sum(said["splits"].values()),
            "genes": len(said["genes"]),
            "dims": said["dims"],
            "cell_types": len(said["cell_types"]),
            "untyped_cells": sum(section["untyped"] for section in said["sections"]),
            "constant_genes": int((self._std_G == 0).sum()),
            "sections": {s["name"]: {k: s[k] for k in ("cells", *SPLITS)} for s in said["sections"]},
            "split": said["split"],
            "transform": f"as prepared: {said['steps']}; then in deviations from the mean of the training cells",
            "position": f"from the centre of each section, in units of {said['model']['scale']:.6g} of the input's",
            "reading": "all decoded cells in memory" if self.room is None else f"windows of {self.room} cells",
        }
        return Card(
            name=self._listed.path.resolve().name,
            sizes={
                "genes": len(said["genes"]),
                "dims": said["dims"],
                "cell_types": len(said["cell_types"]),
                "set_size": self.sets.largest(train),
                "sets_per_batch": min(self.sets.per_batch, sets),
            },
            splits={name: said["splits"][name] for name in SPLITS},
            fingerprint=digest([files, numbers]),
            facts=facts,
        )
