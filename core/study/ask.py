"""What a study is asked to be: a study file and flags, brought together, each choice with its origin."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from core.config import Layer, Resolved, resolve
from core.errors import UserError
from core.layers import env_layer, file_layer
from core.names import Bare, Text, nearest, split
from core.registry import KINDS, Registry, installed
from core.study.design import Axis, Grid, lay_out, make_axis
from core.study.settings import Study

SCHEMA = 1
FLAGS = {
    "name": "title", "system": "system", "seeds": "seeds", "blocks": "blocks", "design": "design.kind",
    "match": "budget.match", "match_on": "budget.on", "tolerance": "budget.tolerance", "metric": "analysis.metric",
    "alpha": "analysis.alpha", "mde": "analysis.mde", "margin": "analysis.margin", "power": "analysis.power",
    "require_power": "analysis.standard",
    "executor": "run.executor", "slots": "run.slots", "threads": "run.threads", "gpus": "run.gpus",
    "attempts": "run.attempts", "timeout": "run.timeout", "stop": "run.stop", "store": "run.store", "keep": "run.keep",
}  # fmt: skip
"""flag of `core ablate` -> key of a study file"""
FREE = "axes", "set", "baseline", "tasks"
"""tables whose keys are a run's own"""
PERCENT = "budget.tolerance", "analysis.mde", "analysis.margin"


@attrs.frozen(kw_only=True)
class Asked:
    """A study as asked, names not resolved yet."""

    resolved: Resolved
    """of `Study`: every setting with its origin"""
    axes: tuple[Axis, ...]
    tasks: Mapping[str, Layer]
    """name -> what is its own; empty where each system is a task"""
    baseline: Mapping[str, str]
    """axis -> label, where somebody said it"""
    fixed: tuple[Layer, ...]
    """what all arms share"""
    exclude: tuple[tuple[Mapping[str, str], str, str], ...]
    cells: tuple[Mapping[str, str], ...]
    seeds: tuple[int, ...]
    blocks: tuple[str, tuple[Any, ...]] | None
    """a key and its values"""

    @property
    def study(self) -> Study:
        return self.resolved.root

    def grid(self, baseline: Mapping[str, str]) -> Grid:
        """The cells around a baseline that names a level of every axis."""
        setting = self.resolved.settings["design.kind"]
        return lay_out(self.axes, baseline, setting.value, cells=self.cells, exclude=self.exclude, where=setting.origin)


def ask(file: str | None, words: Mapping[str, tuple[Any, str]], registry: Registry | None = None) -> Asked:
    """Bring a study file and flags together; flags win.

    Args:
        file: the study file.
        words: flags without their dashes -> (value, origin), `core.layers.cli_layer` entries. A value with commas is an
            axis (`linear,gated_headwise`); in brackets it is one value (`[mse,distance_mse]`).

    Raises:
        UserError: every sort of mistake, with file and line or flag.
    """
    registry = registry or installed()
    said = _from_file(file) if file else _Said()
    said.hear(words, registry)
    layers = [
        Layer("study", said.settings),
        Layer("CLI", said.flags, tuple(f"--{flag.replace('_', '-')}" for flag in FLAGS)),
    ]
    resolved = resolve(Study, layers, registry)
    axes = tuple(make_axis(key, values, origin) for key, (values, origin) in sorted(said.axes.items()))
    for axis in axes:
        for key in said.fixed:
            if key == axis.key:
                raise UserError(f"{key} is an axis ({axis.origin}) and fixed ({said.fixed[key][1]}) at once; keep one")
    _refuse_unknown(axes, said.fixed, registry)
    if said.tasks and resolved.root.system:
        raise UserError(
            f"system ({resolved.settings['system'].origin}) and [tasks] both say what the tasks are; a task names its "
            'system itself: [tasks.NAME] with system = "..."'
        )
    return Asked(
        resolved=resolved,
        axes=axes,
        tasks={name: Layer(f"task {name}", entries) for name, entries in said.tasks.items()},
        baseline=_baseline(said, axes),
        fixed=(env_layer(os.environ), Layer("study", said.fixed)),
        exclude=tuple(said.exclude),
        cells=tuple(said.cells),
        seeds=seeds_of(resolved.root.seeds, resolved.settings["seeds"].origin),
        blocks=_blocks(resolved.root.blocks, resolved.settings["blocks"].origin),
    )


def seeds_of(text: str, origin: str) -> tuple[int, ...]:
    """`6` -> 0..5, `10:16` -> 10..15, `3,7,11`.

    Raises:
        UserError: nothing of the kind, or a seed twice.
    """
    hit = re.fullmatch(r"(\d{1,18})(?::(\d{1,18}))?", text.strip())
    if hit:
        first, last = (0, int(hit[1])) if hit[2] is None else (int(hit[1]), int(hit[2]))
        if last - first > 100_000:
            raise UserError(f"seeds: {last - first} seeds are more than anyone can run ({origin})")
        found = tuple(range(first, last))
    elif re.fullmatch(r"\s*\d{1,18}\s*(,\s*\d{1,18}\s*)*,?\s*", text):
        found = tuple(int(piece) for piece in text.split(",") if piece.strip())
    else:
        raise UserError(f"seeds: {text!r} says no seeds; write 6, 10:16 or 3,7,11 ({origin})")
    twice = next((seed for seed in found if found.count(seed) > 1), None) if len(found) < 10_000 else None
    if twice is not None:
        raise UserError(f"seeds: {twice} is there twice; pairs would count twice ({origin})")
    if not found:
        raise UserError(f"seeds: {text!r} is no seed at all; at least 1 ({origin})")
    return found


@attrs.define
class _Said:
    settings: dict[str, tuple[Any, str]] = attrs.field(factory=dict)
    flags: dict[str, tuple[Any, str]] = attrs.field(factory=dict)
    axes: dict[str, tuple[list[Any], str]] = attrs.field(factory=dict)
    fixed: dict[str, tuple[Any, str]] = attrs.field(factory=dict)
    baseline: dict[str, tuple[str, str]] = attrs.field(factory=dict)
    exclude: list[tuple[dict[str, str], str, str]] = attrs.field(factory=list)
    cells: list[dict[str, str]] = attrs.field(factory=list)
    tasks: dict[str, dict[str, tuple[Any, str]]] = attrs.field(factory=dict)

    def hear(self, words: Mapping[str, tuple[Any, str]], registry: Registry) -> None:
        """Flags over what the file said."""
        for key, (value, origin) in words.items():
            if key in FLAGS:
                self.flags[FLAGS[key]] = (_number(FLAGS[key], value, origin), origin)
            elif key == "baseline":
                for axis, level in _pairs(value, origin).items():
                    self.baseline[axis] = (level, origin)
            elif key == "exclude":
                levels, colon, why = str(value).partition(":")
                if not colon or not why.strip():
                    raise UserError(f"{origin}: write attention=linear,ffn=moe4x2:WHY; the reason goes into the report")
                self.exclude.append((_pairs(levels, origin), why.strip(), origin))
            else:
                self._vary(key, value, origin)

    def _vary(self, key: str, value: Any, origin: str) -> None:
        pieces = [piece.strip() for piece in split(str(value), str(value))]
        whole = len(pieces) == 1
        self.axes.pop(key, None)
        self.fixed.pop(key, None)
        if isinstance(value, Bare) or whole:
            self.fixed[key] = (value, origin)
        else:
            self.axes[key] = ([Text(piece) for piece in pieces], origin)


def _from_file(file: str) -> _Said:
    """The tables of a study file."""
    layer = file_layer(file)
    doc = tomllib.loads(Path(file).read_text("utf-8-sig"))
    name = Path(file).name
    where = {key: origin for key, (_, origin) in layer.entries.items()}
    schema = doc.pop("schema", SCHEMA)
    if schema != SCHEMA:
        raise UserError(f"{where.get('schema', name)}: schema {schema!r} is not one that this core reads ({SCHEMA})")
    said = _Said()
    for table in FREE:
        if not isinstance(doc.get(table, {}), dict):
            raise UserError(f"{where.get(table, name)}: {table} is a table, [{table}]")
    said.fixed = _under("set", layer, doc.pop("set", {}))
    said.baseline = {
        key: (_text(value, where.get(f"baseline.{key}", name)), where.get(f"baseline.{key}", name))
        for key, value in _dotted(doc.pop("baseline", {})).items()
    }
    for task, table in doc.pop("tasks", {}).items():
        if not isinstance(table, dict):
            raise UserError(f"{where.get('tasks', name)}: a task is a table, [tasks.{task}]")
        said.tasks[task] = _under(f"tasks.{task}", layer, table)
    for key, values in _dotted(doc.pop("axes", {})).items():
        origin = where.get(f"axes.{key}", name)
        if not isinstance(values, list):
            raise UserError(f'{origin}: the axis {key} is a list of levels, ["dense", "moe4x2"]')
        said.axes[key] = (values, origin)
    design = doc.get("design", {})
    if isinstance(design, dict):
        origin = where.get("design.exclude", name)
        for entry in design.pop("exclude", []):
            why = entry.pop("why", "") if isinstance(entry, dict) else ""
            if not isinstance(entry, dict) or not isinstance(why, str):
                raise UserError(f'{origin}: an exclusion is a table, {{ attention = "linear", why = "..." }}')
            said.exclude.append(({k: str(v) for k, v in _dotted(entry).items()}, why, origin))
        for cell in design.pop("cells", []):
            if not isinstance(cell, dict):
                raise UserError(f'{where.get("design.cells", name)}: a cell is a table, {{ attention = "linear" }}')
            said.cells.append({k: str(v) for k, v in _dotted(cell).items()})
    if isinstance(doc.get("seeds"), int) and not isinstance(doc["seeds"], bool):
        doc["seeds"] = str(doc["seeds"])
    elif isinstance(doc.get("seeds"), list):
        doc["seeds"] = ",".join(map(str, doc["seeds"]))
    if isinstance(doc.get("system"), str):
        doc["system"] = [doc["system"]]
    if "name" in doc:
        doc["title"] = doc.pop("name")
        where["title"] = where.get("name", name)
    for key, value in _dotted(doc).items():
        said.settings[key] = (_number(key, value, where.get(key, name)), where.get(key, name))
    return said


def _dotted(table: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in table.items():
        at = f"{path}.{key}" if path else key
        flat |= _dotted(value, at) if isinstance(value, dict) else {at: value}
    return flat


def _under(table: str, layer: Layer, doc: Mapping[str, Any]) -> dict[str, tuple[Any, str]]:
    """Entries of one table of a file, by their keys inside it."""
    return {
        key.removeprefix(f"{table}."): said
        for key, said in layer.entries.items()
        if key.startswith(f"{table}.") and doc
    }


def _number(key: str, value: Any, origin: str) -> Any:
    """`5%` as 0.05, where a share is meant."""
    if key in PERCENT and isinstance(value, str) and (hit := re.fullmatch(r"\s*([0-9.]+)\s*%\s*", value)):
        try:
            return float(hit[1]) / 100
        except ValueError:
            raise UserError(f"{origin}: {value!r} is no percentage") from None
    return value


def _text(value: Any, origin: str) -> str:
    if not isinstance(value, str):
        return str(value).lower() if isinstance(value, bool) else str(value)
    return value


def _pairs(text: Any, origin: str) -> dict[str, str]:
    """`attention=softmax,ffn=dense`."""
    found: dict[str, str] = {}
    for piece in split(str(text), str(text)):
        key, equals, level = piece.partition("=")
        if not equals or not level.strip():
            raise UserError(f"{origin}: write AXIS=LEVEL,AXIS=LEVEL, not {piece.strip()!r}")
        found[key.strip().replace("-", "_")] = level.strip()
    return found


def _baseline(said: _Said, axes: Sequence[Axis]) -> dict[str, str]:
    """What was said of the baseline; a level of the baseline that no axis names is refused."""
    by_key = {axis.key: axis for axis in axes}
    for key, (level, origin) in said.baseline.items():
        if key not in by_key:
            close = nearest(key, by_key)
            hint = f" Did you mean {close!r}?" if close else ""
            known = ", ".join(by_key) or "none: give one as --attention linear,gated_headwise"
            raise UserError(f"{origin}: the baseline names {key!r}, which is no axis.{hint} Axes: {known}")
        by_key[key].level(level, origin)
    return {key: level for key, (level, _) in said.baseline.items()}


def _blocks(text: str, origin: str) -> tuple[str, tuple[Any, ...]] | None:
    if not text:
        return None
    key, equals, values = text.partition("=")
    pieces = [piece.strip() for piece in split(values, text)]
    if not equals or len(pieces) < 2 or len(set(pieces)) < len(pieces):
        raise UserError(f"blocks: write KEY=VALUE,VALUE with two or more different values, not {text!r} ({origin})")
    return key.strip(), tuple(Text(piece) for piece in pieces)


def _refuse_unknown(axes: Sequence[Axis], fixed: Mapping[str, tuple[Any, str]], registry: Registry) -> None:
    """Refuse wrong names before anything heavy is imported; what a parameter takes shows when cells are resolved."""
    wrong = []
    for axis in axes:
        if axis.key in KINDS:
            for level in axis.levels:
                name = level.entries[axis.key]
                if name != "none":
                    wrong += _problem(registry, axis.key, name, axis.origin)
    for key, (value, origin) in fixed.items():
        kind = key.removesuffix(".name")
        if kind in KINDS and isinstance(value, str) and value not in ("", "none") and not isinstance(value, Bare):
            wrong += _problem(registry, kind, value, origin)
    if wrong:
        raise UserError("\n".join(wrong))


def _problem(registry: Registry, kind: str, name: Any, origin: str) -> list[str]:
    if not isinstance(name, str):
        return [f"{origin}: {kind} is chosen by name, not by {name!r}"]
    try:
        registry.find(kind, name, origin)
    except UserError as error:
        return [str(error)]
    return []
