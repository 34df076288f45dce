"""Preprocessing, first stage: AnnData files become sections of a common panel, transformed, one Parquet file each.

n cells, G genes of the panel, P axes of space.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, final

import attrs
import numpy as np

from core.cli.flags import settings
from core.errors import UserError
from core.files import write_json
from core.identity import digest
from core.listed import Draft, Listed, file_sha, finished_key, read_listed
from core.params import knob, params
from plugins.data.anndata_file import AnnDataFile
from plugins.data.cells import BLOCK, ordered
from plugins.data.columns import cell_types, positions
from plugins.data.inputs import SILENT, Input, check_counts, check_places, counts_of, found, inputs_of, stems
from plugins.data.panel import columns_of, read_panel, shared_panel
from plugins.data.shards import Cells, Writer, group_rows
from plugins.data.tiles import tiled
from plugins.data.transform import Fitted, Transform

MADE = "core data stage1"
FORMAT = 1
"""revision of what this stage writes; part of every key"""
MANY_GENES = 2048
"""panel size from which sparse input is stored sparse"""
READ = ("position", "section", "cell_type", "layer")
"""flags that say what is read from a file"""
Tell = Callable[[str], None]


@final
@params
class Stage1:
    """What is read from the files, and how."""

    out: str = knob("", "folder to write", identity=False)
    title: str = knob("", "what the data set is called when it is merged with others (the folder's name)")
    genes: str = knob(
        "", "file that names the gene panel, one a line or separated by commas or tabs (what all inputs share)"
    )
    position: str = knob("spatial", "key of obsm that holds positions; never another in its stead")
    section: str = knob("", "column of obs that names sections (`section`, else a file is one section)")
    cell_type: str = knob("", "column of obs that names cell types (`cell_type`, else none)")
    layer: str = knob("", "layer to read expression from (X)")
    dims: Literal["auto", "2", "3"] = knob(
        "auto", "axes of space; 2 takes the first two columns of three; auto: as stored, if all inputs agree"
    )
    z_spacing: float = knob(
        0.0,
        "distance of successive sections, in the unit of positions, as a third axis of 2-D sections (0: none)",
        ge=0,
    )
    store: Literal["auto", "dense", "sparse"] = knob(
        "auto",
        f"fixed-size lists, or lists of indices and values; auto: sparse for sparse input of {MANY_GENES}+ genes",
    )
    min_cells: int = knob(0, "leave out sections of fewer cells, and say so (0: refuse sections of one cell)", ge=0)


def stage1(
    inputs: Sequence[str],
    asked: Stage1,
    transform: Transform,
    tell: Tell,
    look: Callable[[Plan], None] = lambda plan: None,
) -> Listed:
    """Prepare every section of some files.

    Args:
        inputs: .h5ad files, or folders of them.
        asked: what to read.
        transform: what to do to expression.
        tell: gets a line at a time.
        look: sees the plan before anything is written, and may refuse it.

    Returns:
        The finished folder; one of the same content and parameters is returned as it is.

    Raises:
        UserError: inputs or parameters that contradict each other or cannot be used.
    """
    if not asked.out:
        raise UserError("-o is missing: name the folder to write")
    place = Path(asked.out)
    old = finished_key(place, MADE)
    with planned(inputs, asked, transform, tell) as plan:
        look(plan)
        if old == plan.key:
            tell(f"{place} is up to date: same content, same parameters")
            return read_listed(place, MADE)
        return _write(plan, asked, transform, tell, place)


@final
@attrs.frozen(kw_only=True)
class Plan:
    """What is to be done, before any expression is read."""

    panel: tuple[str, ...]
    panel_said: str
    matrix: str
    dims: int
    sparse: bool
    title: str
    parts: dict[str, Input]
    """by name, in order"""
    keys: dict[str, str]
    """of each section: its content and everything that its numbers depend on"""
    key: str


@contextlib.contextmanager
def planned(inputs: Sequence[str], asked: Stage1, transform: Transform, tell: Tell) -> Iterator[Plan]:
    """Open the files and look through everything but expression; they close when the block ends."""
    files: list[tuple[AnnDataFile, Path]] = []
    try:
        for path in found(inputs):
            files.append((AnnDataFile(path), path))
        panel, panel_said = _panel(asked, files)
        tell(f"panel: {len(panel)} genes, {panel_said}")
        dims = _dims(asked, files)
        matrix = f"layers/{asked.layer}" if asked.layer else "X"
        sparse = _sparse(asked, files, matrix, len(panel))
        called = stems([path for _, path in files])
        cut = [
            part
            for (file, path), stem in zip(files, called, strict=True)
            for part in inputs_of(file, path, stem, asked.section)
        ]
        cut = _large_enough(cut, asked, tell)
        parts = {name: next(part for part in cut if part.name == name) for name in ordered({part.name for part in cut})}
        read = {k: v for k, v in settings(asked).items() if k in READ}
        common = [FORMAT, panel, dims, sparse, settings(transform), read]
        keys = {name: digest([common, part.sha, name, len(part.rows)]) for name, part in parts.items()}
        title = asked.title or Path(asked.out).resolve().name
        yield Plan(
            panel=panel, panel_said=panel_said, matrix=matrix, dims=dims, sparse=sparse, title=title, parts=parts,
            keys=keys, key=digest([keys, title, asked.z_spacing, panel_said]),
        )  # fmt: skip
    finally:
        for file, _ in files:
            file.close()


def _write(plan: Plan, asked: Stage1, transform: Transform, tell: Tell, place: Path) -> Listed:
    sizes = [len(part.rows) for part in plan.parts.values()]
    tell(f"{len(sizes)} section(s), {sum(sizes)} cells, {plan.dims}-D; {_bound(max(sizes), len(plan.panel))}")
    with Draft(place, MADE, plan.key) as draft:
        homes = [place, *draft.other_drafts()]
        infos = []
        for number, (name, part) in enumerate(plan.parts.items()):
            base = f"sections/{_slug(name)}-{plan.keys[name][:16]}"
            info = _reused(draft, homes, base)
            how = "reused" if info is not None else "written"
            if info is None:
                info = _section(draft, base, part, plan, asked, transform)
            infos.append(info | {"file": f"{base}.parquet", "info": f"{base}.json", "z": number * asked.z_spacing})
            absent = f", {len(info['absent'])} genes absent (0)" if info["absent"] else ""
            tell(f"[{number + 1}/{len(sizes)}] {name}: {info['cells']} cells{absent}, {how}")
            for warning in info["warnings"]:
                tell(f"  note: {name}: {warning}")
        if all(SILENT in info["warnings"] for info in infos):
            raise UserError(
                f"{'layers/' + asked.layer if asked.layer else 'X'} is 0 for every cell and every gene of the panel, "
                "so there is no expression to learn: name the matrix that holds it with --layer"
            )
        slim = [{k: v for k, v in info.items() if k not in ("fitted", "warnings")} for info in infos]
        metadata = {
            "name": plan.title, "genes": list(plan.panel), "panel": plan.panel_said, "dims": plan.dims,
            "z_spacing": asked.z_spacing, "sparse": plan.sparse, "transform": settings(transform),
            "steps": transform.describe(sparse=plan.sparse),
            "read": {k: v for k, v in settings(asked).items() if k in READ}, "sections": slim,
        }  # fmt: skip
        write_json(draft.path / "metadata.json", metadata)
        return draft.finish({"metadata.json", *(info[what] for info in infos for what in ("file", "info"))})


def _panel(asked: Stage1, files: list[tuple[AnnDataFile, Path]]) -> tuple[tuple[str, ...], str]:
    if asked.genes:
        path = Path(asked.genes).expanduser()
        return read_panel(path), f"from {path.name}"
    return shared_panel({file.name: file.genes for file, _ in files}), "what all inputs share"


def _dims(asked: Stage1, files: list[tuple[AnnDataFile, Path]]) -> int:
    have = {file.name: positions(file, asked.position).shape[1] for file, _ in files}
    if asked.dims == "auto" and len(set(have.values())) > 1:
        two, three = (next(name for name, dims in have.items() if dims == want) for want in (2, 3))
        raise UserError(
            f"positions of {two} are 2-D and those of {three} are 3-D: prepare them apart, or take the first two "
            "columns of all with --dims 2"
        )
    dims = int(asked.dims) if asked.dims != "auto" else next(iter(have.values()))
    flat = [name for name, own in have.items() if own < dims]
    if flat:
        raise UserError(f"--dims 3: positions of {flat[0]} have two columns; give --dims 2, or --z-spacing for a stack")
    if dims == 3 and asked.z_spacing:
        raise UserError("--z-spacing stacks 2-D sections, and these positions are 3-D: leave it out, or give --dims 2")
    return dims


def _sparse(asked: Stage1, files: list[tuple[AnnDataFile, Path]], matrix: str, genes: int) -> bool:
    if asked.store != "auto":
        return asked.store == "sparse"
    return genes >= MANY_GENES and all(file.is_sparse(matrix) for file, _ in files)


def _large_enough(parts: list[Input], asked: Stage1, tell: Tell) -> list[Input]:
    small = [part for part in parts if len(part.rows) < max(2, asked.min_cells)]
    if small and not asked.min_cells:
        raise UserError(
            f"{small[0].where} has a single cell, so it has no distances to learn or to judge: remove that cell, or "
            "leave such sections out with --min-cells 2"
        )
    if small:
        named = ", ".join(f"{part.name} ({len(part.rows)})" for part in small)
        tell(f"left out, fewer than {max(2, asked.min_cells)} cells: {named}")
    kept = [part for part in parts if part not in small]
    if not kept:
        raise UserError(f"no section has {asked.min_cells} cells: lower --min-cells")
    return kept


def _section(draft: Draft, base: str, part: Input, plan: Plan, asked: Stage1, transform: Transform) -> dict[str, Any]:
    """Write one section; what a reader has to know of it."""
    panel, dims, sparse, key = plan.panel, plan.dims, plan.sparse, plan.keys[part.name]
    place_nP = positions(part.file, asked.position)[part.rows][:, :dims]
    check_places(place_nP, part, asked.position)
    size = group_rows(len(panel), sparse=sparse)
    # Names first, so that coincident cells too come in an order of their own, whatever the file's.
    named_n = part.file.names[part.rows]
    by_name = np.argsort(named_n, kind="stable")
    order = by_name[tiled(place_nP[by_name], size)]
    column_G = columns_of(panel, part.file.genes, part.file.name)
    counts = counts_of(part, plan.matrix, column_G, sparse=sparse)[order]
    warnings = check_counts(counts, part, panel, transform)
    fitted, values, total_n = Fitted.fit(counts, transform)
    codes_n, known, _ = cell_types(part.file, asked.cell_type)
    type_n = codes_n[part.rows][order]
    types = sorted({known[code] for code in type_n if code >= 0})
    place = {name: code for code, name in enumerate(types)}
    local = np.array([place.get(name, -1) for name in known] + [-1], np.int64)  # code -1 finds the last
    cells = Cells(values, place_nP[order], local[type_n], total_n, named_n[order])
    groups = []
    with draft.file(f"{base}.parquet") as path:
        with Writer(path, len(panel), dims, sparse=sparse, key=key) as writer:
            for start in range(0, len(cells), size):
                writer.write(part.name, cells.take(slice(start, start + size)))
                groups.append(min(size, len(cells) - start))
        proof = {"bytes": path.stat().st_size, "sha256": file_sha(path)}
    info = {
        "name": part.name, "key": key, "input": part.file.name, "cells": len(cells), "groups": groups, "types": types,
        "untyped": int((type_n < 0).sum()), "absent": [panel[i] for i in np.flatnonzero(column_G < 0)],
        "centre": place_nP.mean(axis=0).tolist(), "warnings": warnings, "proof": proof, "fitted": fitted.to_json(),
    }  # fmt: skip
    write_json(draft.path / f"{base}.json", info)
    return info


def _reused(draft: Draft, homes: list[Path], base: str) -> dict[str, Any] | None:
    """A section that an earlier command wrote from the same content and parameters, brought into the draft."""
    for home in [draft.path, *homes]:
        data, info = home / f"{base}.parquet", home / f"{base}.json"
        if not (data.is_file() and info.is_file()):
            continue
        try:
            said: dict[str, Any] = json.loads(info.read_bytes())
            proof = {"bytes": data.stat().st_size, "sha256": file_sha(data)}
            if said["proof"] != proof or not base.endswith(said["key"][:16]):
                continue
        except (ValueError, KeyError, TypeError, OSError):
            continue
        if home != draft.path:
            (draft.path / base).parent.mkdir(parents=True, exist_ok=True)
            for source in (data, info):
                with draft.file(f"{Path(base).parent}/{source.name}") as copy:
                    copy.unlink(missing_ok=True)
                    try:
                        os.link(source, copy)
                    except OSError:
                        shutil.copyfile(source, copy)
        return said
    return None


def _slug(name: str) -> str:
    """A name as part of a file name, told apart by its hash where letters were lost."""
    plain = re.sub(r"[^A-Za-z0-9_.-]+", "_", name).strip(".")[:60] or "section"
    return plain if plain == name else f"{plain}-{hashlib.sha256(name.encode()).hexdigest()[:6]}"


def _bound(cells: int, genes: int) -> str:
    """At most what is held at once: the largest section as read, in float64 twice, and as stored."""
    mib = (cells * genes * (4 + 8 + 8 + 4) + 2 * BLOCK * 8) / 2**20
    return f"memory: at most about {mib:,.0f} MiB, for the largest section ({cells} cells) if it were dense"
