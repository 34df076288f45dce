"""The arms of one system of a study: every cell resolved, costed and matched."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import attrs
import torch

from core import toml
from core.config import Layer, Resolved, Setting
from core.errors import UserError
from core.identity import digest, run_identity
from core.kinds import Card
from core.names import near
from core.study.ask import Asked
from core.study.design import Cell, Grid, label
from core.study.estimate import step_ratio
from core.study.match import Matched, match
from core.study.spans import rung_of
from core.train.cost import Cost, counted
from core.words import spell

Resolve = Callable[[list[Layer]], Resolved]
State = Literal["planned", "excluded", "n/a"]


@attrs.frozen(kw_only=True)
class Arm:
    """One cell of one system."""

    system: str
    """or the task, where the study names tasks"""
    label: str
    levels: Mapping[str, str]
    """axis -> label"""
    state: State
    why: str = ""
    """the reason of an arm that does not run"""
    config: str = ""
    """the resolved configuration as TOML, without a seed of its own"""
    identity: Mapping[str, Any] = attrs.field(factory=dict)
    """what its trials have in common, `run_identity` at seed 0 of the first block"""
    cost: Mapping[str, int] = attrs.field(factory=dict)
    """parameters, active, flops (a training step)"""
    start: Mapping[str, Any] = attrs.field(factory=dict)
    """`component_init`: settings that decide how its pieces begin (biases of gates, scales of residuals)"""
    matched: Mapping[str, Any] = attrs.field(factory=dict)
    """parameter that was turned -> its value"""
    notes: tuple[str, ...] = ()


@attrs.frozen(kw_only=True)
class PlannedTrial:
    """One arm at one seed, in one block."""

    id: str
    """SHA-256 of `identity`"""
    arm: str
    system: str
    seed: int
    block: str
    identity: Mapping[str, Any] = attrs.field(eq=False)


def meant(resolved: Resolved, key: str) -> list[Setting]:
    """The settings that a key may stand for, which may be abbreviated: `gate` for `attention.gate`."""
    return [s for path, s in resolved.settings.items() if path == key or path.endswith(f".{key}")]


class Opener:
    """Data sets, opened once however many cells read them."""

    def __init__(self) -> None:
        self.cards: dict[str, Card] = {}

    def card(self, resolved: Resolved) -> Card:
        key = digest({p: s.value for p, s in resolved.settings.items() if p == "data" or p.startswith("data.")})
        if key not in self.cards:
            self.cards[key] = resolved.root.data.open().describe()
        return self.cards[key]


class Arms:
    """The arms of one system."""

    def __init__(self, asked: Asked, resolve: Resolve, opener: Opener, layers: list[Layer], system: str,
                 grid: Grid) -> None:  # fmt: skip
        self.asked, self.resolve, self.opener = asked, resolve, opener
        self.layers, self.system, self.grid = layers, system, grid
        self.silent: dict[Cell, tuple[str, ...]] = {}
        """axes that a cell has no place for"""
        self.pieces: set[str] = set()
        """axes that are slots, whose levels are names of pieces; a list of pieces is none"""
        self.base = self._resolved(grid.baseline)
        self.card = opener.card(self.base)
        self._refuse_rung()

    def metric(self, said: str) -> str:
        """The primary metric, `task/metric`; a bare metric means the task of the system's own."""
        own = self.base.root.system.headline
        if not said:
            if not own:
                raise UserError(f"system {self.system} names no primary metric; say --metric TASK/METRIC")
            return own
        self._refuse_unscored(said)
        return said if "/" in said else f"{own.rpartition('/')[0]}/{said}"

    def _refuse_unscored(self, said: str) -> None:
        """A metric that the system does not score is a mistake now, not after the first trial."""
        scored = [s.value for s in self.base.settings.values() if s.row is not None and s.row.kind == "metric"]
        name = said.rpartition("/")[2].partition("(")[0]
        if scored and name not in scored:
            origin = self.asked.resolved.settings["analysis.metric"].origin
            raise UserError(
                f"analysis.metric: {self.system} scores no {name!r}.{near(name, scored)} It scores "
                f"{', '.join(scored)} ({origin})"
            )

    def facts(self) -> dict[str, Any]:
        """The data set, as the report tells it."""
        card = self.card
        return {
            "name": card.name, "fingerprint": card.fingerprint, "sizes": dict(card.sizes), "splits": dict(card.splits),
            "facts": {key: spell(value) for key, value in card.facts.items()},
        }  # fmt: skip

    def _refuse_rung(self) -> None:
        """A rung that no training comes to stops nothing."""
        stop, steps = self.asked.resolved.settings["run.stop"], self.base.root.train.steps
        if steps and rung_of(stop.value) >= steps:
            raise UserError(
                f"run.stop: {stop.value} is no rung of a training of {steps} steps; choose an earlier ({stop.origin})"
            )

    def trivial(self) -> tuple[str, ...]:
        """Arms of the system's evaluation that learn nothing."""
        return type(self.base.root.system).trivial

    def splits_anew(self) -> bool:
        """Whether blocks are other splits of one data set, so that their test items overlap with others' training."""
        key = self.asked.blocks[0] if self.asked.blocks else ""
        return any(setting.field.decides == "split" for setting in meant(self.base, key))

    def all(self) -> list[Arm]:
        """Arms of all cells; those that cannot be built say why."""
        done: list[tuple[Cell, Resolved, Cost]] = []
        out: dict[Cell, Arm] = {cell: self._idle(cell, "excluded", why) for cell, why in self.grid.excluded}
        for cell in self.grid.cells:
            try:
                resolved = self._applied(cell)
                done.append((cell, resolved, self._cost(resolved)))
                self.pieces |= {a.key for a in self.grid.axes if any(s.row is not None for s in meant(resolved, a.key))}
            except UserError as error:
                if cell == self.grid.baseline:
                    raise UserError(f"the baseline ({self.grid.name(cell)}) cannot be built: {error}") from None
                out[cell] = self._idle(cell, "n/a", str(error))
        self._refuse_hopeless({cell: arm.why for cell, arm in out.items() if arm.state == "n/a"}, [c for c, *_ in done])
        self._refuse_twins({cell: resolved for cell, resolved, _ in done})
        arms: dict[Cell, Arm] = {}
        goal = done[0][2]
        for cell, resolved, cost in done:
            arms[cell] = self._arm(cell, resolved, cost, goal)
        everything = arms | out
        return [everything[cell] for cell in [*self.grid.cells, *(cell for cell, _ in self.grid.excluded)]]

    def trials(self, arm: Arm) -> list[PlannedTrial]:
        """Trials of an arm: each seed in each block."""
        found = []
        blocks = self.asked.blocks
        for value in blocks[1] if blocks else [None]:
            identity = dict(arm.identity)
            if value is not None and blocks is not None:
                identity = self._in_block(arm, blocks[0], value)
            for seed in self.asked.seeds:
                own = identity | {"config": {**identity["config"], "seed": seed}}
                found.append(
                    PlannedTrial(
                        id=digest(own), arm=arm.label, system=self.system, seed=seed,
                        block="" if value is None else str(value), identity=own,
                    )
                )  # fmt: skip
        return found

    def _in_block(self, arm: Arm, key: str, value: Any) -> dict[str, Any]:
        cell = next(cell for cell in self.grid.cells if self.grid.name(cell) == arm.label)
        over = {key: (value, "blocks"), **{k: (v, "matched") for k, v in arm.matched.items()}}
        resolved = self._resolved(cell, over)
        return run_identity(resolved, self.opener.card(resolved).fingerprint, self._device(resolved))

    def _applied(self, cell: Cell) -> Resolved:
        """The configuration of a cell. Where a piece has no place for what an axis varies, and the cell has the
        baseline's level of that axis, there is nothing to be said of it: linear attention has no mask, and is `full`.
        """
        try:
            return self._resolved(cell)
        except UserError:
            for place, axis in enumerate(self.grid.axes):
                if cell[place] == self.grid.baseline[place] and cell != self.grid.baseline:
                    try:
                        resolved = self._resolved(cell, silent=(axis.key,))
                    except UserError:
                        continue
                    if not meant(resolved, axis.key):
                        self.silent[cell] = (axis.key,)
                        return resolved
            raise

    def _resolved(self, cell: Cell, over: Mapping[str, tuple[Any, str]] | None = None,
                  silent: tuple[str, ...] | None = None) -> Resolved:  # fmt: skip
        silent = self.silent.get(cell, ()) if silent is None else silent
        entries = {
            key: (value, axis.origin)
            for axis, level in zip(self.grid.axes, cell, strict=True)
            for key, value in level.entries.items()
            if axis.key not in silent
        }
        last = [Layer("study", over)] if over else []
        return self.resolve([*self.layers, Layer("axes", entries), *last, Layer("seed", {"seed": (0, "study")})])

    def _cost(self, resolved: Resolved, flops: bool = True) -> Cost:
        return counted(resolved, self.opener.card(resolved), flops)

    def _arm(self, cell: Cell, resolved: Resolved, cost: Cost, goal: Cost) -> Arm:
        budget = self.asked.study.budget
        fit = Matched(resolved=resolved, cost=cost)
        if budget.match == "time" and cell != self.grid.baseline:
            fit = self._same_time(cell, fit)
        elif budget.match not in ("none", "steps", "time") and cell != self.grid.baseline:
            key = budget.on or type(resolved.root.system).scaled_by
            fit = match(
                budget.match, key, goal, budget.tolerance, self.grid.name(cell), fit,
                lambda value: self._resolved(cell, {key: (value, f"matched by {budget.match}")}),
                lambda resolved: self._cost(resolved, flops=budget.match == "flops"),
            )  # fmt: skip
            if fit.turned and budget.match != "flops":
                fit = attrs.evolve(fit, cost=self._cost(fit.resolved))
        card = self.opener.card(fit.resolved)
        return Arm(
            system=self.system,
            label=self.grid.name(cell),
            levels={axis.key: level.label for axis, level in zip(self.grid.axes, cell, strict=True)},
            state="planned",
            config=toml.dump(fit.resolved),
            identity=run_identity(fit.resolved, card.fingerprint, self._device(fit.resolved)),
            start={path: s.value for path, s in fit.resolved.settings.items() if s.field.decides == "start"},
            cost={"parameters": fit.cost.parameters, "active": fit.cost.active, "flops": fit.cost.flops},
            matched=dict(fit.turned),
            notes=fit.resolved.notes,
        )

    def _same_time(self, cell: Cell, fit: Matched) -> Matched:
        """Another number of steps, so that an arm trains as long as the baseline, by the time of a step measured here.

        Trials are never cut by the clock, which would tie their results to the load of the machine.
        """
        total = self.base.root.train.steps
        if not total:
            raise UserError("E-BUDGET: --match time turns train.steps, and the baseline's length is said in epochs")
        tolerance = self.asked.study.budget.tolerance
        longer, error = step_ratio(fit.resolved, self.base, tolerance)
        if error > tolerance:
            raise UserError(
                f"E-BUDGET: {self.grid.name(cell)}: a step takes {longer:.3g} times the baseline's, give or take "
                f"{error:.1%} on this machine as it is now, so arms cannot be matched within {tolerance:.2%}. Let "
                "other work end first, raise --tolerance, or match another quantity"
            )
        steps = max(1, round(total / longer))
        if abs(steps * longer / total - 1) > tolerance:
            raise UserError(
                f"E-BUDGET: {self.grid.name(cell)}: no whole number of steps takes as long as the baseline's {total} "
                f"within {tolerance:.2%}: {steps} come nearest. Train longer, or raise --tolerance"
            )
        over = {"train.steps": (steps, "matched by time")}
        return attrs.evolve(fit, resolved=self._resolved(cell, over), turned={"train.steps": steps})

    def _idle(self, cell: Cell, state: State, why: str) -> Arm:
        levels = {axis.key: level.label for axis, level in zip(self.grid.axes, cell, strict=True)}
        return Arm(system=self.system, label=label(self.grid.axes, cell), levels=levels, state=state, why=why)

    def _device(self, resolved: Resolved) -> str:
        device: torch.device = resolved.root.strategy.device(resolved.root.device)
        return device.type

    def _refuse_hopeless(self, absent: Mapping[Cell, str], built: Sequence[Cell]) -> None:
        """A level that fits nowhere is a mistake, not a cell that does not apply."""
        for place, axis in enumerate(self.grid.axes):
            for level in axis.levels:
                here = [cell for cell in absent if cell[place] == level]
                if here and not any(cell[place] == level for cell in built):
                    raise UserError(
                        f"E-INVALID: {axis.key}={level.label} ({axis.origin}) can be built in none of its "
                        f"{len(here)} cells: {absent[here[0]]}. Nothing was run"
                    )

    def _refuse_twins(self, built: Mapping[Cell, Resolved]) -> None:
        """Two names may stand for one implementation with the same values: `gated_headwise` without its gate."""
        seen: dict[str, str] = {}
        for cell, resolved in built.items():
            name = self.grid.name(cell)
            key = digest(
                {
                    path: s.value if s.row is None else s.row.target
                    for path, s in resolved.settings.items()
                    if s.identity
                }
            )
            if key in seen:
                raise UserError(
                    f"{name} and {seen[key]} are one and the same configuration, so nothing would be compared; drop "
                    "one, or exclude the cell with a reason"
                )
            seen[key] = name
