"""The tables of a report."""

from __future__ import annotations

from core.study.findings import ArmFound, Findings, SystemFound
from core.study.report.blocks import Cell, Table
from core.study.report.words import (
    SCALES,
    UNIT,
    amount,
    capital,
    chance,
    clean,
    duration,
    interval,
    number,
    short_names,
    verdict_word,
    with_intervals,
)
from core.study.stats.scores import Estimate
from core.words import reason


def primary(findings: Findings, system: SystemFound) -> Table:
    """The headline scores, what they differ by, and what each arm costs."""
    better = "↑" if system.larger_is_better else "↓"
    header = (
        "arm", "verdict", f"{clean(system.label)} {better}", "sd", "difference", "change %",
        "p\N{NO-BREAK SPACE}(Holm)", "P(improve)", "seeds", "parameters", "active", "FLOPs a step", "step time",
        "peak memory",
    )  # fmt: skip
    best = [a.mean.value for a in system.arms if a.mean is not None and not a.stopped]
    top = (max if system.larger_is_better else min)(best, default=None)
    rows = [_primary_row(a, top) for a in system.arms]
    references = sorted(system.references.items())
    rows += [
        (Cell(clean(name)), Cell(""), Cell(number(value), value), *[Cell("")] * (len(header) - 3))
        for name, value in references
    ]
    spans = with_intervals(
        (a.mean for a in system.arms if not a.stopped), f"the {100 * (1 - findings.alpha):g} % t interval"
    )
    note = (
        f"Mean over seeds, with {spans}; difference and change are paired, arm "
        "minus baseline; p after Holm's correction. "
        f"{capital(SCALES)}. Bold: the best mean, which is no verdict. P(improve): share of "
        "seeds where the arm is better."
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
        Cell("" if arm.baseline else verdict_word(arm)),
        Cell(interval(mean), mean.value if mean else None, mean is not None and mean.value == top),
        Cell(number(None if arm.stopped else arm.sd, digits=2), None if arm.stopped else arm.sd),
        estimated(c.difference if c is not None else None),
        Cell(interval(relative, relative=True, signed=True).replace(UNIT, ""), relative.value if relative else None),
        Cell(chance(adjusted), adjusted),
        Cell(interval(improve), improve.value if improve else None),
        Cell(f"{done} of {len(arm.outcomes)}", done),
        counted(cost.parameters),
        counted(cost.active),
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
            cells += [Cell(interval(mean), mean.value if mean else None), estimated(difference)]
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
            Cell(names[a.label]), counted(a.units.n_seeds), counted(a.units.n_units),
            estimated(a.units.difference), Cell(chance(a.units.p), a.units.p),
            plain(a.units.sd_seeds), plain(a.units.sd_units), plain(a.units.sd_rest),
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


WAY = "In per cent of the way from the trivial baseline (0) to the best possible score (100)"


def over_systems(findings: Findings) -> list[Table]:
    """One arm over all systems: the mean effect."""
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
                header=("arm", *map(clean, systems), "mean effect, % of the way", "p"),
                rows=tuple(rows),
                note=f"{WAY}; above 0 is better. Systems are fixed, not a sample; degrees of freedom by Satterthwaite.",
            )
        )
    return tables


def middle(findings: Findings) -> Table | None:
    """A description of the middle half of all scores, over all systems or of the only one."""
    if findings.iqm is None:
        return None
    iqm = findings.iqm
    rows = [
        (
            Cell(clean(label)), Cell(_points(mean, signed=False), mean.value),
            Cell(_points(iqm.differences.get(label)), _value(iqm.differences.get(label))),
        )
        for label, mean in sorted(iqm.means.items())
    ]  # fmt: skip
    several = len(findings.systems) > 1
    return Table(
        title="Interquartile means (descriptive)",
        header=("arm", "interquartile mean, % of the way", "difference, % of the way"),
        rows=tuple(rows),
        note=f"{WAY}: the mean of the middle half of all {'seeds and systems' if several else 'seeds'}, with "
        "percentile intervals of a paired bootstrap. A description: over few seeds such intervals are too narrow to "
        "test anything.",
    )


def fixed(findings: Findings) -> Table | None:
    """The conditions under which arms are compared: what the study set for all of them."""
    if not findings.fixed:
        return None
    several = any(task for _, _, task, _ in findings.fixed)
    rows = tuple(
        (Cell(clean(key)), Cell(clean(value)), *([Cell(clean(task) or "all")] if several else []), Cell(clean(origin)))
        for key, value, task, origin in findings.fixed
    )
    return Table(
        title="Set for all arms",
        header=("setting", "value", *(["task"] if several else []), "said in"),
        rows=rows,
        note="All else that the axes do not vary is as the recipe or the default has it; the configuration of each "
        "arm, a file of the folder `arms`, holds every value.",
    )


def idle(findings: Findings) -> Table | None:
    """Cells that do not run, and why."""
    if not findings.idle:
        return None
    rows = tuple(tuple(Cell(clean(t)) for t in (label, state, reason(why))) for label, state, why in findings.idle)
    return Table(title="Cells that do not run", header=("cell", "state", "reason"), rows=rows)


def estimated(estimate: Estimate | None) -> Cell:
    return Cell(interval(estimate, signed=True), _value(estimate))


def _points(estimate: Estimate | None, signed: bool = True) -> str:
    return interval(estimate, relative=True, signed=signed).replace(UNIT, "")


def _value(estimate: Estimate | None) -> float | None:
    return None if estimate is None else estimate.value


def plain(value: float | None) -> Cell:
    return Cell(number(value), value)


def counted(count: int) -> Cell:
    return Cell(f"{count:,}", count)
