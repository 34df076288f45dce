"""Preprocessing, second stage: sections of one or more data sets are merged by name, divided and written as shards.

n cells, G genes, P axes of space.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, final

import attrs
import numpy as np
import scipy.sparse as sp

from core.cli.flags import settings
from core.errors import UserError
from core.files import write_atomic, write_json
from core.identity import digest
from core.listed import Draft, Listed, finished_key, read_listed
from core.params import knob, params
from plugins.data.cells import Block, ordered
from plugins.data.dataset_card import write_card
from plugins.data.division import SPLITS, Divided, Ratios, divide
from plugins.data.panel import pick
from plugins.data.shards import Cells, Reader, Writer, group_rows
from plugins.data.stage1 import MADE as STAGE1
from plugins.data.stage1 import Tell

MADE = "core data stage2"
FORMAT = 1
FOLDERS = {"train": "train", "valid": "validation", "test": "test"}
"""split -> what Hugging Face `datasets` calls it"""


@final
@params
class Stage2:
    """How data sets are merged and written."""

    out: str = knob("", "folder to write", identity=False)
    panel: Literal["same", "intersection", "union"] = knob(
        "same", "genes of merged data sets: the same names in any order, those of all, or those of any (absent: 0)"
    )
    shard: int = knob(100_000, "cells of a shard", ge=1)


@final
@attrs.frozen
class Section:
    """A section of a stage-1 folder, and its place in the merged data set."""

    listed: Listed
    said: Mapping[str, Any]
    name: str
    column_G: np.ndarray
    """column of each merged gene, -1 where it is absent"""
    type_code: np.ndarray
    """merged code of each local one; the last entry, which -1 finds, is -1"""
    z: float
    genes: int
    dims: int
    sparse: bool

    def cells(self) -> Iterator[Cells]:
        """Its cells by row group, in merged genes, types and axes."""
        path = self.listed.path / self.said["file"]
        reader = Reader(path, self.genes, self.dims, sparse=self.sparse, key=self.said["key"])
        try:
            same = np.array_equal(self.column_G, np.arange(self.genes))
            for number in range(len(self.said["groups"])):
                cells = reader.group(number)
                values: Block = cells.values if same else pick(cells.values, self.column_G)
                place_nP = cells.position_nP
                if not math.isnan(self.z):
                    place_nP = np.column_stack([place_nP, np.full(len(cells), self.z)])
                yield attrs.evolve(cells, values=values, position_nP=place_nP, type_n=self.type_code[cells.type_n])
        finally:
            reader.close()

    def places(self) -> tuple[np.ndarray, np.ndarray]:
        """Positions and names of its cells, in the order of `cells`."""
        parts = [(cells.position_nP, cells.name_n) for cells in self.cells()]
        return np.concatenate([p for p, _ in parts]), np.concatenate([n for _, n in parts])


def stage2(folders: Sequence[str], asked: Stage2, ratios: Ratios, tell: Tell) -> Listed:
    """Merge, divide and write.

    Args:
        folders: what `core data stage1` wrote.
        asked: how to merge and write.
        ratios: how to divide.
        tell: gets a line at a time.

    Returns:
        The finished folder, which `datasets.load_dataset` and the data plugin `processed` read; one of the same
        content and parameters is returned as it is.

    Raises:
        UserError: folders or parameters that contradict each other or cannot be used.
    """
    if not asked.out:
        raise UserError("-o is missing: name the folder to write")
    if not folders:
        raise UserError(f"name one or more folders that `{STAGE1}` wrote")
    place = Path(asked.out)
    old = finished_key(place, MADE)
    inputs = [read_listed(Path(folder).expanduser(), STAGE1) for folder in folders]
    key = key_of([listed.key for listed in inputs], asked, ratios)
    if old == key:
        tell(f"{place} is up to date: same content, same parameters")
        return read_listed(place, MADE)
    said = [listed.json("metadata.json") for listed in inputs]
    merged = _merge(inputs, said, asked)
    genes, types, sections = merged["genes"], merged["types"], merged["sections"]
    by_name = {section.name: section for section in sections}
    divided = divide({s.name: s.said["cells"] for s in sections}, lambda name: by_name[name].places(), ratios)
    sparse, dims = sections[0].sparse, merged["dims"]
    size = group_rows(len(genes), sparse=sparse)
    total = sum(section.said["cells"] for section in sections)
    tell(f"{len(sections)} section(s) of {len(inputs)} data set(s), {total} cells x {len(genes)} genes, {dims}-D")
    tell(f"split: {divided.sentence}")
    tell(f"memory: at most about {4 * size * len(genes) * 4 / 2**20 + 32 * total / 2**20 + 64:,.0f} MiB")
    with Draft(place, MADE, key) as draft:
        shards: dict[str, list[list[int]]] = {}
        model = Model(len(genes), len(sections), dims)
        for code, split in enumerate(SPLITS):
            shards |= _write_split(draft, split, code, sections, divided, asked, size, key, tell, model)
        metadata = {
            "genes": genes, "cell_types": types, "dims": dims, "sparse": sparse, "steps": said[0]["steps"],
            "transform": said[0]["transform"], "z_spacing": said[0]["z_spacing"],
            "sections": [_section_facts(s, divided, model, i) for i, s in enumerate(sections)],
            "split": divided.sentence, "ratios": settings(ratios), "panel": asked.panel,
            "data_sets": [{"name": s["name"], "panel": s["panel"], "read": s["read"]} for s in said],
            "splits": {n: int(sum((c == i).sum() for c in divided.codes.values())) for i, n in enumerate(SPLITS)},
            "shards": shards, "model": model.to_json(),
        }  # fmt: skip
        write_json(draft.path / "metadata.json", metadata)
        fitted = {s.name: s.listed.json(s.said["info"])["fitted"] for s in sections}
        statistics = {name: _in_merged(f, by_name[name].column_G) for name, f in fitted.items()}
        write_json(draft.path / "statistics.json", statistics)
        write_atomic(draft.path / "README.md", write_card(place.resolve().name, metadata))
        return draft.finish({"metadata.json", "statistics.json", "README.md", *shards})


def key_of(inputs: Sequence[str], asked: Stage2, ratios: Ratios) -> str:
    """The key of what stage 2 makes of folders with these keys."""
    return digest([FORMAT, list(inputs), settings(asked), settings(ratios)])


def _merge(inputs: Sequence[Listed], said: Sequence[Mapping[str, Any]], asked: Stage2) -> dict[str, Any]:
    """Common genes, types and sections, all told apart and put together by name.

    Raises:
        UserError: data sets that do not fit together.
    """
    titles = [one["name"] for one in said]
    twice = [title for title in titles if titles.count(title) > 1]
    if twice:
        raise UserError(f"two data sets are called {twice[0]!r}: stage one of them again with another --title")
    first = said[0]
    for one in said[1:]:
        for what, word in (("dims", "-D"), ("sparse", ""), ("steps", "")):
            if one[what] != first[what]:
                raise UserError(
                    f"data sets differ in {what}: {first['name']} has {first[what]}{word}, {one['name']} "
                    f"{one[what]}{word}; stage both with the same flags"
                )
        if bool(one["z_spacing"]) != bool(first["z_spacing"]):
            raise UserError(f"only one of {first['name']} and {one['name']} has --z-spacing: give it to both or none")
    genes = _genes(said, asked.panel)
    types = ordered({name for one in said for section in one["sections"] for name in section["types"]})
    code = {name: i for i, name in enumerate(types)}
    sections: list[Section] = []
    floor = 0.0
    for listed, one in zip(inputs, said, strict=True):
        place = {gene: i for i, gene in enumerate(one["genes"])}
        column_G = np.array([place.get(gene, -1) for gene in genes], np.int64)
        for section in one["sections"]:
            sections.append(
                Section(
                    listed=listed,
                    said=section,
                    name=section["name"] if len(said) == 1 else f"{one['name']}/{section['name']}",
                    column_G=column_G,
                    type_code=np.array([*(code[name] for name in section["types"]), -1], np.int64),
                    z=floor + section["z"] if one["z_spacing"] else math.nan,
                    genes=len(one["genes"]),
                    dims=one["dims"],
                    sparse=one["sparse"],
                )
            )
        # The sections of the next data set are stacked on top, not into these.
        floor += len(one["sections"]) * one["z_spacing"]
    return {
        "genes": genes,
        "types": list(types),
        "sections": sections,
        "dims": 3 if first["z_spacing"] else first["dims"],
    }


def _genes(said: Sequence[Mapping[str, Any]], how: str) -> list[str]:
    sets = [set(one["genes"]) for one in said]
    if how == "same":
        for one, own in zip(said, sets, strict=True):
            only, lacks = sorted(own - sets[0]), sorted(sets[0] - own)
            if only or lacks:
                raise UserError(
                    f"the genes of {said[0]['name']} and {one['name']} differ ({len(lacks)} and {len(only)} in one "
                    f"only, such as {(lacks + only)[0]!r}): give --panel intersection or --panel union, or stage them "
                    "with one --genes"
                )
        return list(said[0]["genes"])
    chosen = set.intersection(*sets) if how == "intersection" else set.union(*sets)
    if not chosen:
        raise UserError(f"no gene is in all of {', '.join(one['name'] for one in said)}: stage them with one --genes")
    return sorted(chosen)


@final
class Model:
    """Moments of the training cells, which put them on the scale that a network reads; merged group by group."""

    def __init__(self, genes: int, sections: int, dims: int) -> None:
        self.count = 0
        self.mean_G, self.square_G = np.zeros(genes), np.zeros(genes)
        self.place_count = np.zeros(sections, np.int64)
        self.place_SP = np.zeros((sections, dims))
        self.away = np.zeros((sections, 2))
        """of training cells: their number, and the sum of squared distances from `base`"""
        self.train_SP = np.zeros((sections, dims))
        self.base: dict[int, np.ndarray] = {}

    def see(self, number: int, cells: Cells, *, train: bool) -> None:
        """Take in a row group of a section."""
        # Sums about a point of the section itself: coordinates may lie far from 0.
        base = self.base.setdefault(number, cells.position_nP[0].copy())
        away_nP = cells.position_nP - base
        self.place_count[number] += len(cells)
        self.place_SP[number] += away_nP.sum(axis=0)
        if not train:
            return
        self.away[number] += (len(cells), float(np.square(away_nP).sum()))
        self.train_SP[number] += away_nP.sum(axis=0)
        x_nG = (cells.values.toarray() if sp.issparse(cells.values) else cells.values).astype(np.float64)
        # Pairwise merging (Chan, Golub and LeVeque 1983): a sum of squares would lose a small spread on a large mean.
        own, own_G = len(x_nG), x_nG.mean(axis=0)
        away_G = own_G - self.mean_G
        self.square_G += np.square(x_nG - own_G).sum(axis=0) + np.square(away_G) * (
            self.count * own / (self.count + own)
        )
        self.count += own
        self.mean_G += away_G * (own / self.count)

    def centre(self, number: int) -> np.ndarray:
        """Mean position of all cells of a section."""
        return self.base[number] + self.place_SP[number] / self.place_count[number]

    def to_json(self) -> dict[str, Any]:
        """Mean and deviation of each gene, and the rms deviation, an axis, of positions from their section's centre."""
        total = 0.0
        for number in range(len(self.away)):
            shift_P = self.place_SP[number] / max(1, self.place_count[number])
            cells, squares = self.away[number]
            # sum |x - c|^2 = sum |x|^2 - 2 c . sum x + n |c|^2
            total += squares - 2 * float(shift_P @ self.train_SP[number]) + cells * float(shift_P @ shift_P)
        scale = math.sqrt(max(total, 0.0) / (self.count * self.place_SP.shape[1]))
        if not 0 < scale < math.inf:
            raise UserError(
                f"positions of training cells spread by {scale} around the centre of their section: nothing can scale "
                "them; divide otherwise (--by, --seed)"
            )
        std_G = np.sqrt(self.square_G / self.count)
        return {"mean": self.mean_G.tolist(), "std": std_G.tolist(), "scale": scale}


def _write_split(
    draft: Draft, split: str, code: int, sections: Sequence[Section], divided: Divided, asked: Stage2, size: int,
    key: str, tell: Tell, model: Model,
) -> dict[str, list[list[int]]]:  # fmt: skip
    """The shards of a split: file name -> its row groups, [section, cells] each."""
    plan: list[list[list[int]]] = [[]]
    for number, section in enumerate(sections):
        left = int((divided.codes[section.name] == code).sum())
        while left:
            filled = sum(count for _, count in plan[-1])
            if filled >= asked.shard:
                plan.append([])
                filled = 0
            take = min(size, left, asked.shard - filled)
            plan[-1].append([number, take])
            left -= take
    names = [f"data/{FOLDERS[split]}-{i:05d}-of-{len(plan):05d}.parquet" for i in range(len(plan))]
    stream = _groups(sections, divided, code, [group for shard in plan for group in shard])
    cells_of = {name: sum(count for _, count in shard) for name, shard in zip(names, plan, strict=True)}
    dims = model.place_SP.shape[1]
    for name, shard in zip(names, plan, strict=True):
        with draft.file(name) as path, Writer(
            path, len(model.mean_G), dims, sparse=sections[0].sparse, key=key
        ) as writer:  # fmt: skip
            for number, _ in shard:
                cells = next(stream)
                model.see(number, cells, train=split == "train")
                writer.write(sections[number].name, cells)
        tell(f"{name}: {cells_of[name]} cells")
    return dict(zip(names, plan, strict=True))


def _groups(sections: Sequence[Section], divided: Divided, code: int, plan: Sequence[Sequence[int]]) -> Iterator[Cells]:
    """The cells of a split, in groups as planned."""
    planned = iter(plan)
    for section in sections:
        wanted_n = divided.codes[section.name] == code
        if not wanted_n.any():
            continue
        held: list[Cells] = []
        need = next(planned)[1]
        start = 0
        for cells in section.cells():
            rows = np.flatnonzero(wanted_n[start : start + len(cells)])
            start += len(cells)
            if len(rows):
                held.append(cells.take(rows))
            while sum(map(len, held)) >= need > 0:
                joined = Cells.join(held)
                yield joined.take(slice(0, need))
                rest = joined.take(slice(need, None))
                held = [rest] if len(rest) else []
                need = next(planned)[1] if held or (start < len(wanted_n) and wanted_n[start:].any()) else 0


def _section_facts(section: Section, divided: Divided, model: Model, number: int) -> dict[str, Any]:
    counts = np.bincount(divided.codes[section.name], minlength=3)
    return {
        "name": section.name,
        "input": section.said["input"],
        "cells": section.said["cells"],
        **{name: int(count) for name, count in zip(SPLITS, counts, strict=True)},
        "untyped": section.said["untyped"],
        "absent": int((section.column_G < 0).sum()) + len(section.said["absent"]),
        "centre": model.centre(number).tolist(),
    }


def _in_merged(fitted: Mapping[str, Any], column_G: np.ndarray) -> dict[str, Any]:
    """A section's statistics in merged genes; absent ones are constant 0."""
    known = column_G >= 0
    picked = {
        name: np.where(known, np.array(fitted[name])[np.maximum(column_G, 0)], 0.0).tolist() for name in ("mean", "std")
    }
    return {**fitted, **picked}
