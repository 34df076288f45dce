"""Studies made by hand: a plan without a model, results without training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import attrs

from core.config import Layer, resolve
from core.identity import digest, plain
from core.study.folder import SCHEMA, Stored, keep, read
from core.study.settings import Study
from core.study.steps import claim, end, finish
from core.study.table import Table

KEY = "task/score"


@attrs.frozen(kw_only=True)
class Made:
    """A plan as `core.study.folder.keep` takes it."""

    doc: dict[str, Any]
    identities: list[dict[str, Any]]

    def keep(self, root: Path) -> Table:
        return keep(root, self.doc, self.identities, "schema = 1\n", 2)


def make(
    *, axes: Mapping[str, Sequence[str]] | None = None, systems: Sequence[str] = ("spatial",),
    seeds: Sequence[int] = range(6), blocks: Sequence[str] = ("",), block_key: str = "",
    splits_anew: bool = False,
    metric: str = KEY, splits: Mapping[str, int] | None = None,
    idle: Sequence[tuple[str, str, str]] = (), cells: Sequence[Sequence[str]] | None = None, **settings: Any,
) -> Made:  # fmt: skip
    """A plan of every combination of levels, the first of each axis the baseline's.

    Args:
        axes: axis -> labels; two arms of one axis where nothing is said.
        systems: names.
        seeds: of every arm.
        blocks: of every arm.
        block_key: what differs between them.
        splits_anew: blocks are other splits of one data set.
        metric: the primary metric of every system.
        splits: sizes of the splits.
        idle: label, state, reason of further cells that do not run.
        cells: the levels of each arm, where not all combinations are there.
        settings: of the study, with two underscores for a dot: `analysis__alpha=0.1`.
    """
    axes = {"ffn": ("dense", "moe")} if axes is None else axes
    said = {key.replace("__", "."): (value, "test") for key, value in settings.items()}
    resolved = resolve(Study, [Layer("test", said)])
    arms, trials, identities = [], [], []
    for system in systems:
        for cell in product(*axes.values()) if cells is None else cells:
            label = " ".join(f"{key}={level}" for key, level in zip(axes, cell, strict=True))
            arms.append(arm_of(system, label, dict(zip(axes, cell, strict=True))))
            for block, seed in product(blocks, seeds):
                own = {"system": system, "arm": label, "seed": seed, "block": block}
                identities.append(own)
                trials.append([digest(own)[:16], system, label, seed, block])
        arms += [arm_of(system, label, {}, state, why) for label, state, why in idle]
    doc = {
        "schema": SCHEMA,
        "settings": {p: [plain(s.value), s.origin] for p, s in resolved.settings.items()},
        "axes": {key: list(labels) for key, labels in axes.items()},
        "baseline": {key: labels[0] for key, labels in axes.items()},
        "metrics": dict.fromkeys(systems, metric),
        "seeds": list(seeds),
        "blocks": list(blocks),
        "block_key": block_key,
        "splits_anew": splits_anew,
        "trivial": {system: ["mean", "mean per type", "random"] for system in systems},
        "data": {system: {"name": "made", "splits": dict(splits or {})} for system in systems},
        "notes": [],
        "arms": arms,
        "trials": trials,
    }
    return Made(doc=doc, identities=identities)


def arm_of(system: str, label: str, levels: Mapping[str, str], state: str = "planned", why: str = "") -> dict[str, Any]:
    return {
        "system": system, "label": label, "levels": dict(levels), "state": state, "why": why,
        "config": f"# {system} {label}\n", "cost": {"parameters": 1000, "active": 900, "flops": 10**6}, "start": {},
        "matched": {}, "notes": [],
    }  # fmt: skip


def scores(value: float | None, *, key: str = KEY, higher: bool = True, units: Mapping[str, float] | None = None,
           references: Mapping[str, float] | None = None) -> list[dict[str, Any]]:  # fmt: skip
    """The scores of one evaluation: the model's, and those of other arms beside it."""
    task, _, metric = key.rpartition("/")
    of = {"model": value, **(references or {})}
    return [
        {"task": task, "metric": metric, "label": metric.title(), "arm": arm, "value": v, "higher": higher,
         "units": dict(units or {}) if arm == "model" else {}}
        for arm, v in of.items()
    ]  # fmt: skip


def put(table: Table, trial: str, own: list[dict[str, Any]], **measured: Any) -> None:
    """Publish the result of a trial."""
    mine = claim(table, trial)
    finish(table, mine, {"scores": own, "curve": [[1, 2.0], [2, 1.0]]}, measured)


def fail(table: Table, trial: str, message: str = "boom", how: Any = "failed", kind: str = "RuntimeError") -> None:
    """Let an attempt of a trial fail."""
    mine = claim(table, trial)
    end(table, trial, mine.attempt, how, {"message": message, "type": kind})


def fill(table: Table, stored: Stored, values: Mapping[tuple[str, str, int], float] | Any, **more: Any) -> None:
    """Publish a value for each trial: `values(trial)`, None for a trial that stays pending."""
    for trial in stored.trials:
        value = values(trial)
        if value is not None:
            put(table, trial.id, scores(value, **more))


def made(root: Path, **plan: Any) -> tuple[Stored, Table]:
    """A study in a directory."""
    table = make(**plan).keep(root)
    return read(root), table
