"""The tables of a factorial analysis."""

from __future__ import annotations

from core.study.findings import SystemFound
from core.study.report.blocks import Block, Cell, Items, Say, Table
from core.study.report.words import chance, clean, interval, number
from core.study.stats.factorial import Effects
from core.study.stats.scores import Estimate
from core.words import plural


def factorial(system: SystemFound) -> list[Block]:
    """Effects, interactions, type II sums of squares, and what the design cannot tell."""
    blocks: list[Block] = []
    name = clean(system.system)
    if system.effects is not None:
        effects = system.effects
        blocks.append(
            Say(
                text=f"{name}: {plural(effects.n, 'trial')} in the model"
                + (f", {effects.left_out} without a score left out" if effects.left_out else "")
                + f"; {effects.residual_df} degrees of freedom for the error"
                + (f", residual sd {number(effects.residual_sd)}" if effects.residual_sd is not None else "")
                + ". Intervals and p values here are not corrected for their number."
            )
        )
        blocks += [t for t in (_two_level(name, effects), _deviations(name, effects), _anova(name, effects)) if t.rows]
        absent = [f"{clean(term)}: {clean(reason)}" for term, reason in sorted(effects.not_estimable.items())]
        absent += [f"{clean(term)} is taken to be 0; all else holds only if it is" for term in effects.assumed_absent]
        if absent:
            blocks.append(Items(title="What this design cannot tell", items=tuple(absent)))
    if system.aliases:
        rows = []
        for line in system.aliases:
            left, _, right = clean(line).partition("=")
            rows.append((Cell(left.strip()), Cell(right.strip())))
        blocks.append(
            Table(
                title=f"Aliases, {name}", header=("effect", "measured together with"), rows=tuple(rows),
                note="Each effect is the sum of itself and its aliases; no analysis can take them apart.",
            )
        )  # fmt: skip
    return blocks


def _two_level(name: str, effects: Effects) -> Table:
    rows = []
    for e in effects.two_level:
        levels = [effects.levels[f] for f in e.term.split(":") if f in effects.levels]
        what = f"{levels[0][1]} minus {levels[0][0]}" if len(levels) == 1 and len(levels[0]) == 2 else "interaction"
        rows.append((Cell(clean(e.term)), Cell(clean(what)), _estimate(e.estimate), Cell(chance(e.p), e.p)))
    return Table(title=f"Effects of factors with two levels, {name}", header=("term", "what", "effect", "p"),
                 rows=tuple(rows), note="An interaction is half the difference between one factor's effects at the two "
                 "levels of the other.")  # fmt: skip


def _deviations(name: str, effects: Effects) -> Table:
    rows = tuple(
        (Cell(clean(d.term)), Cell(clean(d.level)), _estimate(d.estimate), Cell(chance(d.p), d.p))
        for d in effects.deviations
    )
    return Table(title=f"Levels against the mean of all levels, {name}", header=("term", "level", "deviation", "p"),
                 rows=rows, browse=True, note="For pairs: what is left beyond the two main effects.")  # fmt: skip


def _anova(name: str, effects: Effects) -> Table:
    rows = tuple(
        (
            Cell(clean(a.term)), Cell(number(a.sum_of_squares), a.sum_of_squares), Cell(str(a.df), a.df),
            Cell(number(a.f), a.f), Cell(chance(a.p), a.p),
        )
        for a in effects.anova
    )  # fmt: skip
    return Table(title=f"Analysis of variance, type II, {name}", header=("term", "sum of squares", "df", "F", "p"),
                 rows=rows,
                 note="What a term explains beyond all terms that do not contain it; seeds are blocks.")  # fmt: skip


def _estimate(estimate: Estimate) -> Cell:
    return Cell(interval(estimate, signed=True), estimate.value)
