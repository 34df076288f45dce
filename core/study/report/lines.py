"""Figures of lines: interactions, learning curves, power."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

from core.study.findings import ArmFound, Findings, SystemFound
from core.study.report.blocks import Picture
from core.study.report.rows import LEFT, RIGHT, TOP
from core.study.report.svg import COLOURS, LETTER, Board, fold, scale
from core.study.report.words import amount, clean, gain, interval, listed, number, percent, short_names, with_intervals
from core.words import plural

PAIRS = 6
"""pairs of axes that the interaction plot shows"""
CURVES = 6
"""learning curves with a colour of their own; more are drawn in grey"""

OWN = (
    "A loss is what its arm minimises: where arms differ in losses, their weights or the streams that are taught, it "
    "is a sum of other terms, and which arm has the lower one tells nothing."
)


def interactions(findings: Findings, system: SystemFound, name: str) -> Picture | None:
    """Means of the levels of one axis, one line for each level of another."""
    arms = [a for a in system.arms if a.mean is not None and not a.stopped]
    base = next((a.levels for a in arms if a.baseline), findings.baseline)
    panels: list[str] = []
    left_out = 0
    for first, second in itertools.combinations(sorted(findings.axes), 2):
        across, along = sorted((first, second), key=lambda axis: -len(findings.axes[axis]))
        cells = {
            (a.levels.get(across, ""), a.levels.get(along, "")): a
            for a in arms
            if all(a.levels.get(o) == base.get(o) for o in findings.axes if o not in (first, second))
        }
        lines = [level for level in findings.axes[along] if sum(key[1] == level for key in cells) > 1]
        if len(lines) < 2:
            continue
        if len(panels) == PAIRS:
            left_out += 1
            continue
        rows = [level for level in findings.axes[across] if any((level, line) in cells for line in lines)]
        panels.append(_crossing(system, across, along, rows, lines, cells, f"{name}-{len(panels)}"))
    if not panels:
        return None
    spans = with_intervals((a.mean for a in arms), "their intervals")
    said = f" {plural(left_out, 'more pair')} of axes not shown." if left_out else ""
    return Picture(
        title="Interactions",
        caption=f"Means of {clean(system.label)}, with {spans}; all other axes at the baseline. Parallel lines: "
        f"the two axes act independently; lines that cross or part: one changes what the other does.{said}",
        panels=tuple(panels),
    )


def _crossing(system: SystemFound, across: str, along: str, rows: list[str], lines: list[str],
              cells: Mapping[tuple[str, str], ArmFound], name: str) -> str:  # fmt: skip
    means = {key: a.mean for key, a in cells.items() if a.mean is not None and key[1] in lines}
    x = scale([v for e in means.values() for v in (e.value, e.low, e.high) if v is not None], LEFT + 6, RIGHT)
    step, top = 40.0, TOP + 6
    bottom = top + step * len(rows)
    board = Board(
        name=name, title=f"{along} by {across}, {system.system}", height=bottom + 66 + 16 * (len(lines) // 2),
        about=". ".join(f"{across} {a}, {along} {b}: {interval(e)}" for (a, b), e in sorted(means.items())),
    )  # fmt: skip
    board.text(LEFT - 4, top - 8, fold(across, 18, 1)[0], "name", "end")
    more = board.axis_x(x, top - 4, bottom, clean(system.label))
    spread = min(7.0, 24.0 / len(lines))
    for i, line in enumerate(lines):
        found = []
        for j, row in enumerate(rows):
            if (row, line) not in means:
                continue
            e, y = means[row, line], top + step * (j + 0.5) + (i - (len(lines) - 1) / 2) * spread
            if e.low is not None and e.high is not None:
                board.line(x(e.low), y, x(e.high), y, f"range c{i % COLOURS}")
            found.append((x(e.value), y, f"{row}, {line}: {interval(e)}"))
        board.path([(px, py) for px, py, _ in found], f"curve c{i % COLOURS}")
        for px, py, tip in found:
            board.shape(px, py, 4, i, f"mark c{i % COLOURS}", tip)
    for j, row in enumerate(rows):
        texts = fold(row, int((LEFT - 6) / LETTER), 2)
        for k, text in enumerate(texts):
            board.text(LEFT - 4, top + step * (j + 0.5) + 4 + (k - (len(texts) - 1) / 2) * 12.5, text, "row", "end")
    board.height = board.legend([f"{along}: {line}" for line in lines], bottom + more + 48) + 10
    return board.svg()


def learning(findings: Findings, system: SystemFound, name: str) -> Picture | None:
    """Validation loss over training: the baseline and the arms of the largest effects in colour."""
    arms = [a for a in system.arms if a.curve]
    if len({p.step for a in arms for p in a.curve}) < 2:
        return None
    names = short_names(findings, system)

    def weight(arm: ArmFound) -> tuple[bool, float]:
        effect, _ = gain(arm)
        return not arm.baseline, 0.0 if effect is None else -abs(effect.value)

    chosen = {a.label for a in sorted(arms, key=weight)[:CURVES]}
    coloured = [a for a in arms if a.label in chosen]
    banded = len(coloured) <= 4
    y_values = [v for a in arms for p in a.curve for v in ((p.low, p.mean, p.high) if banded else (p.mean,))]
    log = min(y_values) > 0 and max(y_values) > 20 * min(y_values)
    x = scale([p.step for a in arms for p in a.curve], 46, RIGHT, pad=0.02)
    y = scale(y_values, 206, 30, log=log)
    ends = ". ".join(f"{names[a.label]} ends at {number(a.curve[-1].mean)}" for a in coloured)
    board = Board(name=name, title=f"Validation loss over training, {system.system}", height=300, about=ends)
    board.axis_y(y, x.start, x.end, "validation loss" + (" (log scale)" if log else ""))
    ticks = x.ticks(4)
    board.axis_x(x, 30, 206, "optimiser step", [amount(t) for t in ticks], ticks)
    for arm in arms:
        if arm.label not in chosen:
            board.path([(x(p.step), y(p.mean)) for p in arm.curve], "curve rest")
    for i, arm in enumerate(coloured):
        if banded:
            edge = [(x(p.step), y(p.high)) for p in arm.curve] + [(x(p.step), y(p.low)) for p in reversed(arm.curve)]
            board.path(edge, f"band c{i % COLOURS}", closed=True)
    for i, arm in enumerate(coloured):
        board.path([(x(p.step), y(p.mean)) for p in arm.curve], f"curve c{i % COLOURS}")
        # Not at the end, where curves lie on each other.
        p = arm.curve[(i + 1) * (len(arm.curve) - 1) // (len(coloured) + 1)]
        tip = f"{names[arm.label]}, step {p.step:,}: {number(p.mean)}"
        board.shape(x(p.step), y(p.mean), 4, i, f"mark c{i % COLOURS}", tip)
    board.height = board.legend([names[a.label] for a in coloured], 252) + 10
    rest, spread = len(arms) - len(coloured), any(p.low < p.high for a in arms for p in a.curve)
    return Picture(
        title="Learning curves",
        caption="Validation loss"
        + (", mean over seeds" if spread else "")
        + ("; the bands reach from the lowest to the highest seed." if spread and banded else ".")
        + (f" {plural(rest, 'more arm')} in grey." if rest else "")
        + f" Lines that still fall at the end: the verdict may change with longer training. {OWN}",
        panels=(board.svg(),),
    )  # fmt: skip


def single(findings: Findings, system: SystemFound) -> str:
    """What stands for learning curves where validation loss was taken once; empty where there is none, or there are."""
    ends = {a.label: a.curve[0] for a in system.arms if a.curve}
    if len({p.step for a in system.arms for p in a.curve}) != 1:
        return ""
    names = short_names(findings, system)
    told = listed([f"{names[label]}: {number(point.mean)}" for label, point in ends.items()])
    step = next(iter(ends.values())).step
    return (
        f"{clean(system.system)}: validation loss was taken once, at step {step:,} ({told}, means over seeds), so "
        f"there are no learning curves; --train.validate_every says how often it is taken. {OWN}"
    )


def power(findings: Findings, system: SystemFound, name: str) -> Picture | None:
    """What a number of seeds can find."""
    if len(system.power) < 2:
        return None
    relative = system.power_relative
    factor = 100.0 if relative else 1.0
    x = scale([p.n for p in system.power], 46, RIGHT, pad=0.02, log=system.power[-1].n > 20 * system.power[0].n)
    values = [factor * p.detectable for p in system.power]
    target = factor * findings.mde if relative else None
    log = min(values) > 0 and max(values) > 20 * min(values)
    floor = [] if log else [0.0]
    y = scale(
        [*values, *floor, *([target] if target and target <= 3 * max(values) else [])], 186, 30, log=log, pad=0.04
    )
    board = Board(
        name=name, title=f"Smallest difference that a number of seeds finds, {system.system}", height=226,
        about=". ".join(f"{p.n} seeds: {_size(p.detectable, relative)}" for p in system.power),
    )  # fmt: skip
    board.axis_y(
        y,
        x.start,
        x.end,
        "smallest detectable difference" + (", % of the baseline's mean" if relative else f" in {clean(system.label)}"),
    )
    board.axis_x(x, 30, 186, "seeds")
    board.path([(x(p.n), y(factor * p.detectable)) for p in system.power], "curve c0")
    for p in system.power:
        board.dot(x(p.n), y(factor * p.detectable), 2.6, "mark c0", f"{p.n} seeds: {_size(p.detectable, relative)}")
    if target is not None and y.low <= target <= y.high:
        board.line(x.start, y(target), x.end, y(target), "goal")
        board.text(x.end, y(target) - 5, f"wanted: {percent(findings.mde)}", "tick", "end")
    here = len(findings.seeds)
    if x.low <= here <= x.high:
        board.line(x(here), 30, x(here), 186, "here")
        board.text(x(here) + 5, 42, f"this study: {here}", "tick")
    return Picture(
        title="Power",
        caption="The smallest difference that a number of seeds finds in four studies of five, at the median spread of "
        f"this study's differences and after correction. {needed(findings, system)}",
        panels=(board.svg(),),
    )


def needed(findings: Findings, system: SystemFound) -> str:
    """How many seeds the wanted effect takes, in a sentence."""
    wanted = f"a difference of {percent(findings.mde)} of the baseline's mean"
    if system.needed is None:
        return f"How many seeds would find {wanted} is not known, or no number of them would."
    more = system.needed - len(findings.seeds)
    own = plural(len(findings.seeds), "seed")
    return f"To find {wanted} takes {plural(system.needed, 'seed')}; this study has {own}" + (
        f", {more} too few." if more > 0 else "."
    )


def _size(value: float, relative: bool) -> str:
    return percent(value) if relative else number(value)
