"""The tables of a report."""

from __future__ import annotations

from core.study.findings import ArmFound, Findings, SystemFound
from core.study.report.accounts import CELLS, MEANING, missing, states
from core.study.report.blocks import Box, Boxes, Cell, Table
from core.study.report.words import (
    DASH,
    STOPPED,
    amount,
    chance,
    clean,
    duration,
    gain,
    interval,
    number,
    p_is,
    percent,
    plural,
    short_names,
    smallest,
    verdict_word,
)
from core.study.stats.scores import Estimate


def boxes(findings: Findings, system: SystemFound) -> Boxes:
    """One verdict a contrast, in the order of the arms."""
    names = short_names(findings, system)
    made = [_box(findings, a, names[a.label]) for a in system.arms if not a.baseline]
    base = next((names[a.label] for a in system.arms if a.baseline), "the baseline")
    return Boxes(title=f"{clean(system.system)}: against {base}", boxes=tuple(made))


def _box(findings: Findings, arm: ArmFound, name: str) -> Box:
    word = verdict_word(arm)
    if word == STOPPED:
        return Box(name=name, word=word, size="", why=clean(arm.stopped), facts="counts in the family, in no mean")
    effect, relative = gain(arm)
    contrast, verdict = arm.contrast, arm.verdict
    if contrast is None or verdict is None:
        return Box(name=name, word=word, size="", why="no seed has both scores", facts="")
    unit = "pair" if len(findings.blocks) > 1 else "seed"
    facts = [plural(contrast.n, unit)]
    if verdict.p_adjusted is not None:
        facts.append(f"{p_is(verdict.p_adjusted)} after Holm for {plural(verdict.family_size, 'contrast')}")
    if verdict.p_equivalence_adjusted is not None:
        facts.append(f"equivalence {p_is(verdict.p_equivalence_adjusted)}")
    if least := smallest(arm):
        facts.append(f"smallest detectable effect {least}")
    if arm.inside_noise:
        facts.append("inside the noise floor")
    size = "" if effect is None else interval(effect, relative=relative, signed=True)
    return Box(name=name, word=word, size=size, why=clean(verdict.why), facts="; ".join(facts))


def accounting(findings: Findings) -> list[Table]:
    """States that sum to the planned trials, and which seeds gave nothing.

    Raises:
        ValueError: they do not add up.
    """
    found = states(findings)
    rows = [(Cell(clean(key)), _count(n), Cell(MEANING.get(key, ""))) for key, n in found.items()]
    rows.append((Cell("planned"), _count(findings.counts["planned"]), Cell("the sum of all above")))
    told = [f"{plural(findings.counts[key], 'cell')} {key}" for key in CELLS if findings.counts.get(key)]
    note = f"Beside these, {' and '.join(told)}, with reasons below." if told else ""
    tables = [
        Table(
            title="Where every planned trial is", header=("state", "trials", "meaning"), rows=tuple(rows), note=note,
            own=frozenset({len(rows) - 1}),
        )
    ]  # fmt: skip
    if absent := missing(findings):
        tables.append(
            Table(
                title="Trials without a result",
                header=("arm", "system", "which", "why"),
                rows=tuple(
                    tuple(Cell(clean(t)) for t in (arm, system, seeds, why)) for system, arm, seeds, why in absent
                ),
                note="A contrast uses only seeds that both arms have.",
            )
        )
    return tables


def noise(findings: Findings, system: SystemFound) -> Table | None:
    """How far the baseline falls from itself, then how much sharing seeds helped each contrast."""
    names, rows = short_names(findings, system), []
    floor = system.noise
    if floor is not None:
        size = (
            f"{percent(floor.floor_relative)} %" if floor.floor_relative is not None else number(floor.floor, digits=3)
        )
        rows.append((
            Cell("baseline against itself (A/A)"), Cell(f"{floor.n_first} and {floor.n_second}"),
            _difference(floor.difference), Cell(DASH), Cell(DASH), Cell(f"floor {size}; {_p(floor.p)}"),
        ))  # fmt: skip
    for arm in system.arms:
        if arm.contrast is None:
            continue
        c = arm.contrast
        said = "" if not arm.inside_noise else "inside the noise floor"
        if c.pairing_gain is not None and c.pairing_gain < 1:
            said = "; ".join(filter(None, [said, "pairing did not help"]))
        rows.append((
            Cell(names[arm.label]), Cell(str(c.n), c.n), _difference(c.difference), _plain(c.rho, 2),
            Cell(DASH if c.pairing_gain is None else f"{number(c.pairing_gain, digits=3)} ×", c.pairing_gain), Cell(said),
        ))  # fmt: skip
    if not rows:
        return None
    return Table(
        title=f"Noise and pairing, {clean(system.system)}",
        header=(
            "arm",
            "pairs",
            f"difference in {clean(system.label)}",
            "correlation over seeds",
            "variance gained",
            "",
        ),
        rows=tuple(rows),
        own=frozenset({0} if floor is not None else ()),
        note="The A/A row compares two halves of the baseline's own seeds: a difference below its floor has shown "
        "nothing. Variance gained: that of an unpaired comparison over that of the paired one, above 1 where sharing "
        "seeds helped.",
    )


def primary(findings: Findings, system: SystemFound) -> Table:
    """The headline scores, what they differ by, and what each arm costs."""
    better = "↑" if system.larger_is_better else "↓"
    header = ("arm", f"{clean(system.label)} {better}", "sd", "difference", "change %", "p (Holm)", "P(improve)",
              "verdict", "seeds", "parameters", "active", "FLOPs a step", "step time", "peak memory")  # fmt: skip
    best = [a.mean.value for a in system.arms if a.mean is not None and not a.stopped]
    top = (max if system.larger_is_better else min)(best, default=None)
    rows = [_primary_row(a, top) for a in system.arms]
    references = sorted(system.references.items())
    rows += [
        (Cell(clean(name)), Cell(number(value), value), *[Cell("")] * (len(header) - 2)) for name, value in references
    ]
    note = (
        f"Mean with {100 * (1 - findings.alpha):g} % t interval over seeds; difference and change are paired, arm minus "
        "baseline; p after Holm's correction. Bold: the best mean, which is no verdict. P(improve): share of seeds "
        "where the arm is better."
    )
    turned = sorted((a.label, k, v) for a in system.arms for k, v in a.matched.items())
    if turned:
        note += (
            " Turned to match budgets: "
            + "; ".join(f"{clean(a)}: {clean(k)} = {clean(str(v))}" for a, k, v in turned)
            + "."
        )
    if references:
        note += " Last rows, no rivals: trivial baselines and the ceiling."
    return Table(
        title=f"{clean(system.system)}: {clean(system.label)}",
        header=header, rows=tuple(rows), note=note, browse=True,
        own=frozenset(i for i, a in enumerate(system.arms) if a.baseline),
        apart=frozenset(range(len(system.arms), len(rows))),
    )  # fmt: skip


def _primary_row(arm: ArmFound, top: float | None) -> tuple[Cell, ...]:
    c, verdict, cost = arm.contrast, arm.verdict, arm.cost
    mean = arm.mean if not arm.stopped else None
    done = sum(o.value is not None for o in arm.outcomes)
    relative = c.relative if c is not None else None
    improve = c.improve if c is not None else None
    adjusted = verdict.p_adjusted if verdict is not None else None
    return (
        Cell(f"{clean(arm.label)}{' (baseline)' if arm.baseline else ''}"),
        Cell(interval(mean), mean.value if mean else None, mean is not None and mean.value == top),
        Cell(number(None if arm.stopped else arm.sd, digits=3), None if arm.stopped else arm.sd),
        _difference(c.difference if c is not None else None),
        Cell(interval(relative, relative=True, signed=True).replace(" %", ""), relative.value if relative else None),
        Cell(chance(adjusted), adjusted),
        Cell(DASH if improve is None else f"{improve.value:.2f}", improve.value if improve else None),
        Cell("" if arm.baseline else verdict_word(arm)),
        Cell(f"{done} of {len(arm.outcomes)}", done),
        _count(cost.parameters),
        _count(cost.active),
        Cell(amount(cost.flops), cost.flops),
        Cell(duration(cost.seconds), cost.seconds),
        Cell(amount(cost.memory, "B"), cost.memory),
    )


def secondary(system: SystemFound) -> Table | None:
    """All other metrics, for looking, not for claims."""
    if not system.secondary:
        return None
    rows = []
    for a in system.arms:
        cells = [Cell(clean(a.label))]
        for metric in system.secondary:
            mean, difference = metric.means.get(a.label), metric.differences.get(a.label)
            cells += [Cell(interval(mean), mean.value if mean else None), _difference(difference)]
        rows.append(tuple(cells))
    header = ["arm"]
    for metric in system.secondary:
        header += [f"{clean(metric.label)} {'↑' if metric.larger_is_better else '↓'}", "difference"]
    return Table(
        title=f"Exploratory: other metrics of {clean(system.system)}",
        header=tuple(header), rows=tuple(rows), browse=True,
        own=frozenset(i for i, a in enumerate(system.arms) if a.baseline),
        note="No verdict rests on these, and their intervals are not corrected for many comparisons: with this many "
        "metrics some will look better or worse by chance.",
    )  # fmt: skip


def units(findings: Findings, system: SystemFound) -> Table | None:
    """Would the difference hold for new seeds on new units?"""
    names = short_names(findings, system)
    rows = [
        (
            Cell(names[a.label]), Cell(str(a.units.n_seeds), a.units.n_seeds), Cell(str(a.units.n_units), a.units.n_units),
            _difference(a.units.difference), Cell(chance(a.units.p), a.units.p),
            _plain(a.units.sd_seeds, 3), _plain(a.units.sd_units, 3), _plain(a.units.sd_rest, 3),
        )
        for a in system.arms if a.units is not None
    ]  # fmt: skip
    if not rows:
        return None
    return Table(
        title=f"On new units, {clean(system.system)}",
        header=("arm", "seeds", "units", "difference", "p", "sd seeds", "sd units", "sd rest"),
        rows=tuple(rows),
        note="Intervals for new seeds on new units (sections, chromosomes, conditions), each unit scored by itself. "
        "The verdicts speak of these units only. p without correction.",
    )


def over_systems(findings: Findings) -> list[Table]:
    """One arm over all systems: the mean effect, and a description of the middle half."""
    tables = []
    if findings.over_systems:
        systems = sorted({name for row in findings.over_systems for name in row.effects})
        rows = [
            (
                Cell(clean(row.label)),
                *(Cell(_points(row.effects.get(s)), _value(row.effects.get(s))) for s in systems),
                Cell(_points(row.mean), _value(row.mean)), Cell(chance(row.p), row.p),
            )
            for row in findings.over_systems
        ]  # fmt: skip
        tables.append(
            Table(
                title="Mean effect over systems",
                header=("arm", *map(clean, systems), "mean effect", "p"),
                rows=tuple(rows),
                note="In points of the way from the trivial baseline (0) to the best possible score (100), above 0 is "
                "better. Systems are fixed, not a sample; degrees of freedom by Satterthwaite.",
            )
        )
    if findings.iqm is not None:
        iqm = findings.iqm
        rows = [
            (
                Cell(clean(label)), Cell(_points(mean, signed=False), mean.value),
                Cell(_points(iqm.differences.get(label)), _value(iqm.differences.get(label))),
            )
            for label, mean in sorted(iqm.means.items())
        ]  # fmt: skip
        tables.append(
            Table(
                title="Interquartile means (descriptive)",
                header=("arm", "interquartile mean", "difference to the baseline"),
                rows=tuple(rows),
                note="The mean of the middle half of all seeds and systems, with percentile intervals of a paired "
                "bootstrap. A description: over few seeds such intervals are too narrow to test anything.",
            )
        )
    return tables


def idle(findings: Findings) -> Table | None:
    """Cells that do not run, and why."""
    if not findings.idle:
        return None
    rows = tuple(tuple(Cell(clean(t)) for t in row) for row in findings.idle)
    return Table(title="Cells that do not run", header=("cell", "state", "reason"), rows=rows)


def _difference(estimate: Estimate | None) -> Cell:
    return Cell(interval(estimate, signed=True), _value(estimate))


def _points(estimate: Estimate | None, signed: bool = True) -> str:
    return interval(estimate, relative=True, signed=signed).replace(" %", "")


def _value(estimate: Estimate | None) -> float | None:
    return None if estimate is None else estimate.value


def _plain(value: float | None, digits: int) -> Cell:
    return Cell(number(value, digits=digits), value)


def _count(count: int) -> Cell:
    return Cell(f"{count:,}", count)


def _p(p: float | None) -> str:
    return "no p" if p is None else p_is(p)
