"""Quality against cost, one panel a kind of cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from core.study.findings import ArmFound, Findings, SystemFound
from core.study.report.blocks import Picture
from core.study.report.rows import RIGHT, shown
from core.study.report.svg import Board, scale
from core.study.report.words import amount, clean, duration, interval, short_names, with_intervals
from core.study.stats.scores import Estimate

BOTTOM = 190.0
KINDS: tuple[tuple[str, str, Callable[[ArmFound], float | None], Callable[[float], str]], ...] = (
    ("parameters", "parameters", lambda a: a.cost.parameters, amount),
    ("active", "active parameters (used by one token)", lambda a: a.cost.active, amount),
    ("flops", "FLOPs of a training step", lambda a: a.cost.flops, amount),
    ("seconds", "time of a training step", lambda a: a.cost.seconds, duration),
    ("memory", "peak memory", lambda a: a.cost.memory, lambda v: amount(v, "B")),
)


def tradeoff(findings: Findings, system: SystemFound, name: str) -> Picture | None:
    """Mean score over each cost; the arms that no other arm beats on both are joined."""
    arms, said = shown(system)
    arms = [a for a in arms if a.mean is not None]
    names = short_names(findings, system)
    numbered = {a.label: i + 1 for i, a in enumerate(arms)}
    panels, longest = [], 0
    for kind, what, cost, text in KINDS:
        points = [(a, c, a.mean) for a in arms if (c := cost(a)) is not None and c > 0 and a.mean is not None]
        if len(points) > 1:
            kept = front([(c, m.value) for _, c, m in points], system.larger_is_better)
            longest = max(longest, len(kept))
            panels.append(_panel(system, f"{name}-{kind}", what, points, kept, numbered, names, text))
    if not panels:
        return None
    spans = with_intervals((a.mean for a in arms), "intervals of the means")
    joined = " and joined" if longest > 1 else ""
    better = "higher" if system.larger_is_better else "lower"
    return Picture(
        title="Quality and cost",
        caption=f"Mean {clean(system.label)} ({better} is better) over the cost of each arm, with {spans}. "
        f"Filled{joined}: the Pareto front, arms that no other arm matches at less cost; intervals play no part. "
        f"Time and memory depend on the machine.{said}",
        panels=tuple(panels),
        key=tuple(f"{names[a.label]}{' (baseline)' if a.baseline else ''}" for a in arms),
    )


def front(points: Sequence[tuple[float, float]], larger_is_better: bool) -> list[int]:
    """Places of the points that no other point beats: as cheap and better, or cheaper and as good. By cost."""
    sign = -1.0 if larger_is_better else 1.0
    kept, best = [], float("inf")
    for i in sorted(range(len(points)), key=lambda i: (points[i][0], sign * points[i][1])):
        if sign * points[i][1] < best:
            kept.append(i)
            best = sign * points[i][1]
    return kept


def _panel(system: SystemFound, name: str, what: str, points: Sequence[tuple[ArmFound, float, Estimate]],
           kept: Sequence[int], numbered: dict[str, int], names: dict[str, str],
           text: Callable[[float], str]) -> str:  # fmt: skip
    costs = [c for _, c, _ in points]
    ends = [v for _, _, m in points for v in (m.value, m.low, m.high) if v is not None]
    log = max(costs) > 8 * min(costs)
    x = scale(costs, 52, RIGHT - 12, log=log, pad=0.1)
    y = scale(ends, BOTTOM, 30)
    board = Board(
        name=name, title=f"{system.label} against {what}, {system.system}", height=BOTTOM + 36,
        about=". ".join(f"{names[a.label]}: {text(c)}, {interval(m)}" for a, c, m in points),
    )  # fmt: skip
    board.axis_y(y, x.start - 6, RIGHT, clean(system.label))
    ticks = x.ticks(4)
    texts = [text(t) for t in ticks]
    told = [i for i, t in enumerate(texts) if t not in texts[:i]]
    board.axis_x(
        x, 30, BOTTOM, what + (", log scale" if log else ""), [texts[i] for i in told], [ticks[i] for i in told]
    )
    board.path([(x(points[i][1]), y(points[i][2].value)) for i in kept], "front")
    for _, c, m in points:
        if m.low is not None and m.high is not None:
            board.line(x(c), y(m.low), x(c), y(m.high), "range thin")
    for i, (a, c, m) in enumerate(points):
        kind = "on" if i in kept else "off"
        board.dot(x(c), y(m.value), 4.2, kind, f"{numbered[a.label]} {names[a.label]}: {text(c)}, {interval(m)}")
    for i, at in zip(*_apart([(x(c), y(m.value)) for _, c, m in points]), strict=True):
        side = 7 if x(points[i][1]) < RIGHT - 22 else -7
        board.text(x(points[i][1]) + side, at + 3.5, str(numbered[points[i][0].label]), "tick halo",
                   "start" if side > 0 else "end")  # fmt: skip
    return board.svg()


def _apart(places: Sequence[tuple[float, float]]) -> tuple[list[int], list[float]]:
    """Heights for labels beside the points, moved so that none lies on another."""
    order = sorted(range(len(places)), key=lambda i: (places[i][1], places[i][0]))
    taken: list[tuple[float, float]] = []
    heights = []
    for i in order:
        x, y = places[i]
        while any(abs(x - other) < 16 and abs(y - at) < 10.5 for other, at in taken):
            y += 1.0
        taken.append((x, y))
        heights.append(y)
    return order, heights
