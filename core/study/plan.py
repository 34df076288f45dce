"""A study before it runs: every cell resolved, costed and matched, every trial with its identity.

A trial is a run: its identity is that of the run, so a trial that another study has done already is done here too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from core.config import Layer
from core.errors import UserError
from core.identity import plain
from core.registry import installed
from core.study.arms import Arm, Arms, Opener, PlannedTrial, Resolve, meant
from core.study.ask import Asked
from core.study.design import NOTHING, Grid, ordered
from core.study.folder import SCHEMA
from core.study.said import metric_of_each


@attrs.frozen(kw_only=True)
class Plan:
    """All that is decided before a trial runs."""

    settings: Mapping[str, tuple[Any, str]]
    """every setting of the study with its origin"""
    fixed: Mapping[str, Mapping[str, tuple[Any, str]]]
    """what was set for all arms, with its origin: under the empty name for all tasks, else for the task named"""
    axes: Mapping[str, tuple[str, ...]]
    baseline: Mapping[str, str]
    """axis -> label"""
    metrics: Mapping[str, str]
    """system -> the primary metric"""
    arms: tuple[Arm, ...]
    trials: tuple[PlannedTrial, ...]
    seeds: tuple[int, ...]
    blocks: tuple[str, ...]
    block_key: str
    """what differs between blocks; empty for one block"""
    splits_anew: bool
    """blocks are other splits of one data set"""
    data: Mapping[str, Any]
    """system -> what its data set is"""
    trivial: Mapping[str, tuple[str, ...]]
    """system -> arms of its evaluation that learn nothing"""
    pieces: tuple[str, ...]
    """axes whose levels are names of pieces"""
    notes: tuple[str, ...] = ()

    def running(self, system: str) -> list[Arm]:
        """The arms of a system that have trials, the baseline first."""
        return [arm for arm in self.arms if arm.system == system and arm.state == "planned"]


def make_plan(asked: Asked, resolve: Resolve) -> Plan:
    """Resolve every cell of every system, open the data, count, match, and name the trials.

    Raises:
        UserError: nothing varies, the baseline cannot be built, a level fits nowhere, two arms are the same, or a
            budget cannot be matched.
    """
    if not asked.axes:
        raise UserError(NOTHING)
    _refuse_seed(asked)
    origin = asked.resolved.settings["system"].origin
    systems = asked.study.system or (installed().default("system") or "",)
    tasks = asked.tasks or {name: Layer("system", {"system": (name, origin)}) for name in systems}
    opener = Opener()
    arms: list[Arm] = []
    trials: list[PlannedTrial] = []
    notes: list[str] = []
    metrics: dict[str, str] = {}
    facts: dict[str, Any] = {}
    trivial: dict[str, tuple[str, ...]] = {}
    pieces: set[str] = set()
    splits_anew = False
    grid: Grid | None = None
    said = asked.resolved.settings["analysis.metric"]
    named = metric_of_each([*tasks], said.value, f"analysis.metric ({said.origin})")
    for system, task in tasks.items():
        layers = [*asked.fixed, task]
        if grid is None:
            baseline, told = _baseline(asked, resolve, layers)
            grid, notes = asked.grid(baseline), notes + told
        made = Arms(asked, resolve, opener, layers, system, grid)
        metrics[system] = made.metric(named.get(system, ""))
        fresh = made.all()
        arms += fresh
        trials += [trial for arm in fresh if arm.state == "planned" for trial in made.trials(arm)]
        facts[system], trivial[system] = made.facts(), made.trivial()
        pieces |= made.pieces
        splits_anew = splits_anew or made.splits_anew()
    _refuse_same_tasks(trials)
    assert grid is not None
    return Plan(
        settings={path: (s.value, s.origin) for path, s in asked.resolved.settings.items()},
        fixed={"": asked.shared(), **{name: dict(task.entries) for name, task in asked.tasks.items()}},
        axes={
            axis.key: tuple(level.label for level in ordered(axis, first))
            for axis, first in zip(grid.axes, grid.baseline, strict=True)
        },
        baseline={axis.key: level.label for axis, level in zip(grid.axes, grid.baseline, strict=True)},
        metrics=metrics,
        arms=tuple(arms),
        trials=tuple(trials),
        seeds=asked.seeds,
        blocks=tuple(map(str, asked.blocks[1])) if asked.blocks else ("",),
        block_key=asked.blocks[0] if asked.blocks else "",
        splits_anew=splits_anew,
        data=facts,
        trivial=trivial,
        pieces=tuple(sorted(pieces)),
        notes=tuple(notes),
    )


def _refuse_seed(asked: Asked) -> None:
    for layer in asked.fixed:
        if "seed" in layer.entries and layer.name != "environment":
            raise UserError(f"a study has seeds of its own: --seeds 6, not --seed ({layer.entries['seed'][1]})")
    for axis in asked.axes:
        if axis.key in ("seed", "system", "recipe.seed"):
            raise UserError(f"{axis.origin}: {axis.key} is no axis; say --seeds 0,1,2 or --system spatial,perturb")


def _refuse_same_tasks(trials: Sequence[PlannedTrial]) -> None:
    owner: dict[str, PlannedTrial] = {}
    for trial in trials:
        other = owner.setdefault(trial.id, trial)
        if other is not trial:
            raise UserError(
                f"{trial.arm} of {trial.system} and {other.arm} of {other.system} are one and the same trial; tasks "
                "and blocks of a study differ in something that changes numbers"
            )


def _baseline(asked: Asked, resolve: Resolve, layers: list[Layer]) -> tuple[dict[str, str], list[str]]:
    """A level of each axis: what was said, else what the configuration has without the axis, else the first."""
    found, notes = dict(asked.baseline), []
    open_axes = [axis for axis in asked.axes if axis.key not in found]
    try:
        plain_run = resolve(layers) if open_axes else None
    except UserError:
        plain_run = None
    for axis in open_axes:
        labels = [level.label for level in axis.levels]
        own = [] if plain_run is None else [str(setting.value) for setting in meant(plain_run, axis.key)]
        usual = own[0] if len(own) == 1 and own[0] in labels else None
        found[axis.key] = usual or labels[0]
        why = "the default" if usual else "the first named"
        notes.append(f"baseline {axis.key}={found[axis.key]} ({why}; --baseline {axis.key}=... chooses another)")
    return found, notes


def document(plan: Plan) -> dict[str, Any]:
    """A plan as JSON; the identities of trials are in the table."""
    doc = attrs.asdict(plan, filter=attrs.filters.exclude("trials", "identity"), recurse=True)
    doc["settings"] = {key: [*said] for key, said in plan.settings.items()}
    doc["trials"] = [[trial.id[:16], trial.system, trial.arm, trial.seed, trial.block] for trial in plan.trials]
    return plain({"schema": SCHEMA, **doc})
