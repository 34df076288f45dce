"""`core ablate plan`: what would be run, what it costs and what it could find."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from core.cli.ablate.words import asked_of
from core.errors import UserError
from core.study.ask import Asked
from core.study.spans import spell_seconds
from core.words import plural, reason

if TYPE_CHECKING:
    from core.study.plan import Plan
    from core.study.settings import RunSettings


def plan(words: list[str]) -> int:
    """Print the plan; nothing is run or written."""
    asked, said = asked_of(words)
    if "quick" in said.switches:
        print("\n".join(_names(asked)))
        return 0
    from core.cli.choose import resolve_layers
    from core.study.plan import make_plan

    made = make_plan(asked, resolve_layers)
    show(made)
    refuse_weak(made, asked)
    print("\n".join(time_lines(made, asked.study.run)))
    return 0


def refuse_weak(made: Plan, asked: Asked) -> None:
    """Where it was asked for, refuse seeds that could find nothing but the coarsest difference.

    Raises:
        UserError: E-POWER.
    """
    if asked.study.analysis.require_power:
        arms = [arm for arm in made.arms if arm.state == "planned"]
        require_power(len(made.seeds) * len(made.blocks), len(arms) - len(made.metrics), made.settings)


def time_lines(plan: Plan, how: RunSettings) -> list[str]:
    """What the training of all trials takes, by a few steps of each baseline here and the FLOPs of the others."""
    from core.cli.choose import resolve_layers
    from core.config import Layer
    from core.layers import text_layer
    from core.study.drive import executor_of
    from core.study.estimate import STEPS, seconds_of_run

    seconds = 0.0
    for system in plan.metrics:
        arms = plan.running(system)
        base = resolve_layers([text_layer(arms[0].config, "the plan"), Layer("study", {"seed": (0, "study")})])
        each, total, end = seconds_of_run(base)
        pace = each / arms[0].cost["flops"]
        for trial in (trial for trial in plan.trials if trial.system == system):
            arm = next(arm for arm in arms if arm.label == trial.arm)
            steps = arm.matched.get("train.steps", total)
            seconds += pace * arm.cost["flops"] * steps + end
    try:
        slots = max(1, executor_of(how.executor, how.slots, how.threads, how.gpus).capacity())
    except UserError:  # planned where it will not run, as on the login machine of a cluster
        slots = how.slots or len(how.gpus) or 1
    places = f" on {slots} slots" if slots > 1 else ""
    return [
        f"time        about {spell_seconds(seconds / slots)} of training and evaluation{places}, by {STEPS} steps and "
        "one evaluation of each baseline on this machine as it is now; the start of each trial comes on top"
    ]


def show(plan: Plan) -> None:
    """Cells with their cost, and what the seeds can find."""
    arms = [arm for arm in plan.arms if arm.state == "planned"]
    wide = max(len(arm.label) for arm in plan.arms)
    for system in plan.metrics:
        print(f"system {system}, judged by {plan.metrics[system]}")
        print(f"  {'':{wide}}  {'parameters':>11}  {'active':>11}  {'GFLOP/step':>10}")
        base = next(arm for arm in arms if arm.system == system)
        for arm in (arm for arm in plan.arms if arm.system == system):
            if arm.state != "planned":
                print(f"  {arm.label:{wide}}  {arm.state}, because {reason(arm.why)}")
                continue
            cost = arm.cost
            turned = "".join(f"  {key} = {value}" for key, value in arm.matched.items())
            mark = "  (baseline)" if arm is base else ""
            print(
                f"  {arm.label:{wide}}  {cost['parameters']:>11,}  {cost['active']:>11,}  {cost['flops'] / 1e9:>10.3g}"
                f"{turned}{mark}"
            )
    idle = len(plan.arms) - len(arms)
    blocks = f" x {len(plan.blocks)} blocks" if len(plan.blocks) > 1 else ""
    print(
        f"\n{plural(len(arms), 'cell')} x {plural(len(plan.seeds), 'seed')}{blocks} = "
        + plural(len(plan.trials), "trial")
        + (f"; {plural(idle, 'cell')} {'does' if idle == 1 else 'do'} not run" if idle else "")
    )
    for line in power_lines(len(plan.seeds) * len(plan.blocks), len(arms) - len(plan.metrics), plan.settings):
        print(line)
    for note in plan.notes:
        print(f"core: {note}", file=sys.stderr)


def power_lines(n: int, family: int, settings: Mapping[str, tuple[Any, str]]) -> list[str]:
    """What a paired t test over n seeds finds, corrected for the family; in standard deviations of the difference."""
    from core.study.stats.power import detectable

    alpha, power, mde = (settings[f"analysis.{key}"][0] for key in ("alpha", "power", "mde"))
    if n < 3:
        return [f"power       {plural(n, 'seed')}: nothing can be tested below 3, only dots will be shown"]
    size = detectable(n, 1.0, alpha / max(1, family), power)
    return [
        f"power       {plural(n, 'pair')}, {plural(family, 'contrast')}: {power:.0%} chance to find a difference of "
        f"{size:.2f} standard deviations of the paired difference;",
        f"            a change of {mde:.0%} is found if that deviation is at most {mde / size:.2%} of the baseline",
    ]


def require_power(n: int, family: int, settings: Mapping[str, tuple[Any, str]]) -> None:
    """Refuse a study that could find nothing but the coarsest difference.

    Raises:
        UserError: E-POWER.
    """
    from core.study.stats.power import detectable

    alpha, power = (settings[f"analysis.{key}"][0] for key in ("alpha", "power"))
    size = math.inf if n < 3 else detectable(n, 1.0, alpha / max(1, family), power)
    if size > 2.0:
        raise UserError(
            f"E-POWER: {plural(n, 'seed')} over {plural(family, 'contrast')} find no difference below "
            f"{size:.2f} standard deviations; --require-power asks for 2. Give more --seeds, or fewer arms"
        )


def _names(asked: Asked) -> list[str]:
    """Cells and trials by name alone, without torch."""
    baseline = {axis.key: asked.baseline.get(axis.key, axis.levels[0].label) for axis in asked.axes}
    grid = asked.grid(baseline)
    lines = [f"  {grid.name(cell)}" for cell in grid.cells]
    lines += [f"  {grid.name(cell)}  excluded, because {reason(why)}" for cell, why in grid.excluded]
    systems, blocks = len(asked.tasks) or len(asked.study.system) or 1, len(asked.blocks[1]) if asked.blocks else 1
    count = systems * len(grid.cells) * len(asked.seeds) * blocks
    settings = {path: (s.value, s.origin) for path, s in asked.resolved.settings.items()}
    factors = [plural(len(grid.cells), "cell"), plural(len(asked.seeds), "seed")]
    factors += [f"{many} {what}" for many, what in ((blocks, "blocks"), (systems, "systems")) if many > 1]
    return [
        *lines,
        f"{' x '.join(factors)} = {plural(count, 'trial')}, if every cell can be built",
        *power_lines(len(asked.seeds) * blocks, systems * (len(grid.cells) - 1), settings),
    ]
