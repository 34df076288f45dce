"""Figures with one row an arm: seeds as dots, paired differences with their intervals."""

from __future__ import annotations

from collections.abc import Sequence

from core.study.findings import ArmFound, Findings, SystemFound
from core.study.report.blocks import Picture
from core.study.report.svg import LETTER, Board, fold, scale
from core.study.report.words import (
    SIGNS,
    capital,
    clean,
    gain,
    interval,
    number,
    percent,
    short_names,
    verdict_word,
    with_intervals,
)
from core.study.stats.scores import Estimate
from core.study.stats.verdict import NOT_TESTED
from core.words import plural

MOST = 40
"""arms that a figure shows"""
LEFT, RIGHT, TOP, FOOT = 126.0, 342.0, 22.0, 36.0


def shown(system: SystemFound) -> tuple[list[ArmFound], str]:
    """The baseline and the arms of the largest effects, in the given order, and a sentence where some are left out."""
    arms = [a for a in system.arms if not a.stopped and any(o.value is not None for o in a.outcomes)]
    if len(arms) <= MOST:
        return arms, ""

    def size(arm: ArmFound) -> float:
        effect, _ = gain(arm)
        return float("inf") if arm.baseline else -1.0 if effect is None else abs(effect.value)

    kept = {a.label for a in sorted(arms, key=lambda a: (-size(a), a.label))[:MOST]}
    said = f" Of {len(arms)} arms with results, the {MOST} with the largest effects are shown."
    return [a for a in arms if a.label in kept], said


def dots(findings: Findings, system: SystemFound, name: str) -> Picture | None:
    """Every seed of every arm; one line a seed joins its arms."""
    arms, said = shown(system)
    if not arms:
        return None
    names = short_names(findings, system)
    values = {a.label: {(o.seed, o.block): o.value for o in a.outcomes if o.value is not None} for a in arms}
    ends = [v for a in arms for v in values[a.label].values()]
    ends += [e for a in arms if a.mean is not None for e in (a.mean.low, a.mean.high) if e is not None]
    x, step = scale(ends, LEFT + 6, RIGHT), _step(len(arms))
    bottom = TOP + step * len(arms)
    board = Board(name=name, title=f"{system.label} of every seed, {system.system}", height=bottom + FOOT,
                  about=_about_dots(system, arms, names))  # fmt: skip
    board.axis_x(x, TOP - 6, bottom, clean(system.label) + (" (higher is better)" if system.larger_is_better else
                 " (lower is better)"))  # fmt: skip
    middle = {a.label: TOP + step * (i + 0.5) for i, a in enumerate(arms)}
    lines = 0
    for pair in sorted({key for found in values.values() for key in found}):
        joined = [(x(values[a.label][pair]), middle[a.label]) for a in arms if pair in values[a.label]]
        if len(joined) > 1:
            board.path(joined, "pair")
            lines += 1
    for arm in arms:
        y = middle[arm.label]
        _label(board, names[arm.label], y, step, arm.baseline)
        for (seed, block), value in sorted(values[arm.label].items()):
            board.dot(
                x(value),
                y,
                3.2,
                "seed",
                f"{names[arm.label]}, seed {seed}{' in ' + block if block else ''}: {number(value)}",
            )
        if arm.mean is not None:
            if arm.mean.low is not None and arm.mean.high is not None:
                board.line(x(arm.mean.low), y + 8, x(arm.mean.high), y + 8, "range")
            board.shape(x(arm.mean.value), y + 8, 3.4, 3, "mean", f"{names[arm.label]}, mean {interval(arm.mean)}")
    return Picture(
        title="Every seed",
        caption=f"{capital(clean(system.label))} of {clean(system.system)}: one dot a trial{_joined(lines)}."
        f"{_diamonds(findings, arms)}{said}",
        panels=(board.svg(),),
    )


def _joined(lines: int) -> str:
    """What thin lines there are, and what to see in them."""
    if not lines:
        return ""
    several = ", so parallel lines mean that pairing works" if lines > 1 else ""
    return f"; a thin line joins the trials that share a seed{several}"


def _diamonds(findings: Findings, arms: Sequence[ArmFound]) -> str:
    means = [a.mean for a in arms if a.mean is not None]
    if not means:
        return ""
    level = f"the {100 * (1 - findings.alpha):g} % interval"
    return f" Diamonds below the dots: the mean, with {with_intervals(means, level)}."


def forest(findings: Findings, system: SystemFound, name: str) -> Picture | None:
    """Paired differences with intervals, beside the noise floor and the margin."""
    arms, said = shown(system)
    effects: list[tuple[ArmFound, Estimate]] = []
    compared = [a for a in arms if a.contrast is not None and a.contrast.difference is not None]
    relative = bool(compared) and all(a.contrast is not None and a.contrast.relative is not None for a in compared)
    for arm in compared:
        assert arm.contrast is not None
        estimate = arm.contrast.relative if relative else arm.contrast.difference
        assert estimate is not None
        effects.append((arm, estimate))
    if not effects:
        return None
    bands = _bands(findings, system, relative)
    names = short_names(findings, system)
    factor = 100.0 if relative else 1.0
    ends = [0.0, *(v for _, e in effects for v in (e.value, e.low, e.high) if v is not None)]
    reach = max(map(abs, ends)) or 1.0
    ends += [end for _, span in bands.values() if span[1] <= 3 * reach for end in span]
    x, step = scale([factor * v for v in ends], LEFT + 6, RIGHT - 16), _step(len(effects))
    bottom = TOP + step * len(effects)
    board = Board(name=name, title=f"Paired differences to the baseline, {system.system}", height=bottom + FOOT + 14,
                  about=". ".join(f"{names[a.label]}: {interval(e, relative=relative, signed=True)}, {verdict_word(a)}"
                                  for a, e in effects))  # fmt: skip
    for kind, (_, (low, high)) in bands.items():
        board.box(x(factor * low), TOP - 6, x(factor * high) - x(factor * low), bottom - TOP + 6, kind)
    unit = "change to the baseline, %" if relative else f"difference in {clean(system.label)}"
    more = board.axis_x(x, TOP - 6, bottom, unit)
    board.line(x(0), TOP - 8, x(0), bottom, "zero")
    left, right = ("worse", "better") if system.larger_is_better else ("better", "worse")
    if x(0) - x.start > 44:
        board.text(x(0) - 6, bottom + more + 42, f"← {left}", "tick", "end")
    if x.end - x(0) > 44:
        board.text(x(0) + 6, bottom + more + 42, f"{right} →", "tick")
    for i, (arm, e) in enumerate(effects):
        y, word = TOP + step * (i + 0.5), verdict_word(arm)
        kind = word.replace(" ", "-")
        _label(board, names[arm.label], y, step, False)
        if e.low is not None and e.high is not None:
            board.line(x(factor * e.low), y, x(factor * e.high), y, f"range {kind}")
        board.shape(
            x(factor * e.value),
            y,
            4.2,
            1,
            f"point {kind}",
            f"{names[arm.label]}: {interval(e, relative=relative, signed=True)}",
        )
        board.text(RIGHT + 4, y + 4, SIGNS[word], f"sign {kind}", "middle")
    told = [f"{what}, {_span(ends, relative)}" for what, ends in bands.values()]
    legend = ", ".join(f"{SIGNS[w]} {w}" for w in dict.fromkeys(verdict_word(a) for a, _ in effects))
    level = f"{100 * (1 - findings.alpha):g} % intervals, each for itself"
    tested = any(verdict_word(a) != NOT_TESTED for a, _ in effects)
    judged = "Verdicts, which are corrected for many comparisons" if tested else "No verdicts"
    most = max(a.contrast.n for a, _ in effects if a.contrast)
    return Picture(
        title="Differences to the baseline",
        caption=f"Arm minus baseline over {plural(most, 'shared seed' if len(findings.blocks) < 2 else 'pair')}, "
        f"with {with_intervals((e for _, e in effects), level)}"
        f"{'; ' + '; '.join(told) if told else ''}. {judged}: {legend}."
        f"{_scales(relative, tested)}{said}",
        panels=(board.svg(),),
    )  # fmt: skip


def _scales(relative: bool, tested: bool) -> str:
    if not relative:
        return ""
    return f" Changes are on logarithms{', and the verdicts beside them on differences' if tested else ''}."


def _bands(findings: Findings, system: SystemFound, relative: bool) -> dict[str, tuple[str, tuple[float, float]]]:
    """Kind of band -> what it is and where it ends, on the figure's own scale."""
    found = {}
    if relative and findings.margin:
        found["margin"] = "outlined: the margin of equivalence", (-findings.margin, findings.margin)
    if (noise := system.noise) is not None:
        floor = noise.band_relative if relative else None if noise.floor is None else (-noise.floor, noise.floor)
        if floor is not None:
            found["noise"] = f"grey: the noise floor{', on logarithms' if relative else ''}", floor
    return found


def _span(ends: tuple[float, float], relative: bool) -> str:
    low, high = ((percent if relative else number)(end, signed=True) for end in ends)
    return f"±{high.removeprefix('+')}" if low[1:] == high[1:] else f"{low} to {high}"


def _step(rows: int) -> float:
    return 34.0 if rows <= 14 else 27.0


def _label(board: Board, name: str, middle: float, step: float, baseline: bool) -> None:
    lines = fold(name, int((LEFT - 6) / LETTER), 2)
    for i, text in enumerate(lines):
        board.text(LEFT - 4, middle + 4 + (i - (len(lines) - 1) / 2) * min(12.5, step / 2), text,
                   "row strong" if baseline else "row", "end")  # fmt: skip


def _about_dots(system: SystemFound, arms: Sequence[ArmFound], names: dict[str, str]) -> str:
    return ". ".join(f"{names[a.label]}: mean {interval(a.mean)}" for a in arms if a.mean is not None)
