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
import scipy.sparse as sp

from core.cli.flags import settings
from core.errors import UserError
from core.files import write_json
from core.identity import digest
from core.listed import Draft, Listed, file_sha, finished_key, read_listed
from core.names import near
from core.params import knob, params
from plugins.data.anndata_file import AnnDataFile
from plugins.data.cells import BLOCK, Block, ordered
from plugins.data.columns import cell_types, positions, sections
from plugins.data.panel import columns_of, pick, read_panel, shared_panel
from plugins.data.prepare import LOG_ABOVE
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
        0.0, "distance of successive sections, in the unit of positions, as a third axis of 2-D sections (0: none)", ge=0
    )
    store: Literal["auto", "dense", "sparse"] = knob(
        "auto", f"fixed-size lists, or lists of indices and values; auto: sparse for sparse input of {MANY_GENES}+ genes"
    )
    min_cells: int = knob(0, "leave out sections of fewer cells, and say so (0: refuse sections of one cell)", ge=0)


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


def stage1(inputs: Sequence[str], asked: Stage1, transform: Transform, tell: Tell) -> Listed:
    """Prepare every section of some files.

    Args:
        inputs: .h5ad files, or folders of them.
        asked: what to read.
        transform: what to do to expression.
        tell: gets a line at a time.

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
        stems = _stems([path for _, path in files])
        cut = [part for (file, path), stem in zip(files, stems, strict=True) for part in _inputs(file, path, stem, asked)]
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
        slim = [{k: v for k, v in info.items() if k not in ("fitted", "warnings")} for info in infos]
        metadata = {
            "name": plan.title, "genes": list(plan.panel), "panel": plan.panel_said, "dims": plan.dims,
            "z_spacing": asked.z_spacing, "sparse": plan.sparse, "transform": settings(transform),
            "steps": transform.describe(sparse=plan.sparse),
            "read": {k: v for k, v in settings(asked).items() if k in READ}, "sections": slim,
        }  # fmt: skip
        write_json(draft.path / "metadata.json", metadata)
        return draft.finish({"metadata.json", *(info[what] for info in infos for what in ("file", "info"))})


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


def _stems(paths: list[Path]) -> list[str]:
    """What each file calls its sections: its stem, with the folder's name before it where stems repeat."""
    stems = [path.stem for path in paths]
    longer = [s if stems.count(s) == 1 else f"{p.resolve().parent.name}-{s}" for s, p in zip(stems, paths, strict=True)]
    twice = [stem for stem in longer if longer.count(stem) > 1]
    if twice:
        raise UserError(f"two inputs are called {twice[0]!r}, so their sections could not be told apart: rename a file")
    return longer


def _inputs(file: AnnDataFile, path: Path, stem: str, asked: Stage1) -> list[Input]:
    if not file.shape[0]:
        raise UserError(f"{file.name} has no cells")
    codes_n, names, said = sections(file, asked.section)
    sha = file_sha(path)
    whole = names == ("all",) and said.startswith("no column")
    parts = []
    for code, name in enumerate(names):
        called = stem if whole else f"{stem}:{name}"
        parts.append(Input(file, sha, f"{file.name}, section {called!r}", called, np.flatnonzero(codes_n == code)))
    return parts


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


def _section(
    draft: Draft, base: str, part: Input, plan: Plan, asked: Stage1, transform: Transform
) -> dict[str, Any]:
    """Write one section; what a reader has to know of it."""
    panel, dims, sparse, key = plan.panel, plan.dims, plan.sparse, plan.keys[part.name]
    place_nP = positions(part.file, asked.position)[part.rows][:, :dims]
    _check_places(place_nP, part, asked.position)
    size = group_rows(len(panel), sparse=sparse)
    # Names first, so that coincident cells too come in an order of their own, whatever the file's.
    named_n = part.file.names[part.rows]
    by_name = np.argsort(named_n, kind="stable")
    order = by_name[tiled(place_nP[by_name], size)]
    column_G = columns_of(panel, part.file.genes, part.file.name)
    counts = _counts(part, plan.matrix, column_G, sparse=sparse)[order]
    warnings = _check_counts(counts, part, panel, transform)
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


def _counts(part: Input, matrix: str, column_G: np.ndarray, *, sparse: bool) -> Block:
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


def _check_places(place_nP: np.ndarray, part: Input, key: str) -> None:
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


def _check_counts(counts: Block, part: Input, panel: tuple[str, ...], transform: Transform) -> list[str]:
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
        warnings.append("every value of the panel is 0 here")
    return warnings


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
