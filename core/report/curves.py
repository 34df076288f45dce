"""Figures of a run's own curves: learning, expert load, gate scores.

Every function returns a `matplotlib.figure.Figure`, made without pyplot and so without global state, or None where
there is nothing to show. `records` are the lines of `metrics.jsonl`; any key may be missing on any line.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

Record = Mapping[str, Any]
Curve = tuple[np.ndarray, np.ndarray]
"""steps and values"""

# Okabe & Ito 2008: told apart by readers with any common colour blindness.
INK, BLUE, ORANGE, GREY = "#1b1b1b", "#0072b2", "#d55e00", "#8a8a8a"
CYCLE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#5b4a00", "#000000")
DASHES = ("-", "--", "-.", ":")
WIDTH = 6.6
"""inches; narrow, so that text stays readable when a phone scales the figure"""
SMOOTH = 0.05
"""share of a training curve's lines that its running mean covers, though never less than 11 lines"""
DENSE = 400
"""pieces that a long curve is cut into, each drawn by its lowest and highest point: what print can show of it"""
FEW = 30
"""a curve of fewer lines is drawn with dots and without running mean"""
STEP = "optimiser step"

_STYLE: dict[Any, Any] = {
    "font.size": 9.0,
    "font.family": "DejaVu Sans",
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.labelsize": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "legend.title_fontsize": 8.5,
    "figure.facecolor": "white",
}


def learning_curves(records: Sequence[Record]) -> Figure | None:
    """Total loss on top, every loss term below it, then learning rate and gradient norm, over optimiser steps.

    Training values are drawn twice, as logged and as their running mean; the lowest validation value is ringed.
    Terms that differ only in a closing number, one a layer, share a panel.
    """
    keys = _keys(records)
    terms: dict[str, list[str]] = {}
    for key in keys:
        part, _, name = key.partition("/")
        if part in ("train", "valid") and (name == "loss" or name.startswith("loss/")):
            stem, _, last = name.rpartition("/")
            members = terms.setdefault(stem if last.isdigit() and "/" in stem else name, [])
            if name not in members:
                members.append(name)
    scalars = [scalar for scalar in _SCALARS if scalar[0] in keys]
    if not terms and not scalars:
        return None
    total = [terms.pop("loss")] if "loss" in terms else []
    small = len(terms) + len(scalars)
    with rc_context(_STYLE):
        rows = math.ceil(small / 2)
        figure = Figure(figsize=(WIDTH, 2.9 * len(total) + 2.1 * rows + 0.1), layout="constrained")
        grid = figure.add_gridspec(len(total) + rows, 2, height_ratios=[1.4] * len(total) + [1.0] * rows)
        places = iter(grid[len(total) + i // 2, i % 2] for i in range(small))
        for _ in total:
            _loss_panel(figure.add_subplot(grid[0, :]), records, "loss", "Loss")
        for stem, names in sorted(terms.items()):
            axes, title = figure.add_subplot(next(places)), stem.removeprefix("loss/")
            if names == [stem]:
                _loss_panel(axes, records, stem, f"Loss term: {title}")
            else:
                _family_panel(axes, records, sorted(names, key=_natural), f"Loss terms: {title}")
        for key, title, label in scalars:
            axes = figure.add_subplot(next(places))
            steps, values = _thin(_curve(records, key))
            axes.plot(steps, values, color=INK, linewidth=1.0, **_dots(steps))
            _panel(axes, title, label)
        _legend(figure, [axes for axes in figure.axes if axes.get_legend() is None])
        return figure


_SCALARS = (
    ("lr", "Learning rate", "learning rate (no unit)"),
    ("grad_norm", "Gradient norm, before clipping", "L2 norm of the gradient"),
)


def expert_load(records: Sequence[Record]) -> Figure | None:
    """For each mixture layer, the share of its assignments that each expert gets, over optimiser steps.

    Reads keys `stat/<layer>/load/<i>`. The dashed line is the even share 1/E of E experts.
    """
    layers: dict[str, list[int]] = {}
    for key in _keys(records):
        layer, load, expert = [*key.removeprefix("stat/").rsplit("/", 2), "", ""][:3]
        if key.startswith("stat/") and load == "load" and expert.isdigit():
            layers.setdefault(layer, []).append(int(expert))
    if not layers:
        return None
    with rc_context(_STYLE):
        figure, panels = _multiples(list(layers), 1.9)
        most = max(len(experts) for experts in layers.values())
        highest = 0.0
        for axes, (layer, experts) in zip(
            panels, sorted(layers.items(), key=lambda item: _natural(item[0])), strict=True
        ):
            for i in sorted(experts):
                steps, share = _smooth(_curve(records, f"stat/{layer}/load/{i}"))
                highest = max(highest, share.max())
                colour, dash = _expert_style(i, most)
                line = {"color": colour, "linestyle": dash, "linewidth": 1.4}
                axes.plot(steps, share, label=f"expert {i}", **line, **_dots(steps))
            even = 1 / len(experts)
            axes.axhline(even, color=INK, linestyle=(0, (6, 3)), linewidth=1.0, label="even share, 1 / experts")
            highest = max(highest, even)
            _panel(axes, _fold(layer, _columns(list(layers))), "share of assignments")
        for axes in panels:
            axes.set_ylim(0, min(1.02, 1.15 * highest))
        many = most > len(CYCLE)
        middle = [f"expert {i}" for i in range(1, most - 1)] if many else []
        _legend(figure, panels, middle, title="running means" if len(records) >= FEW else "")
        return figure


def gate_histograms(gates: Mapping[str, Mapping[str, Any]]) -> Figure | None:
    """One histogram of gate scores for each gated layer, its mean marked, and the saturated share in words."""
    shown = {name: gate for name, gate in gates.items() if sum(gate.get("counts", ())) > 0}
    if not shown:
        return None
    with rc_context(_STYLE):
        figure, panels = _multiples(list(shown), 2.0)
        for axes, (name, gate) in zip(panels, sorted(shown.items(), key=lambda item: _natural(item[0])), strict=True):
            counts, edges = np.asarray(gate["counts"], float), np.asarray(gate["edges"], float)
            axes.bar(edges[:-1], counts / counts.sum(), np.diff(edges), align="edge", color=BLUE, alpha=0.75)
            axes.axvline(gate["mean"], color=ORANGE, linewidth=1.8)
            axes.set_xlim(0, 1)
            axes.set_ylim(0, 1.2 * (counts / counts.sum()).max())
            left = gate["mean"] > 0.5
            axes.annotate(
                f"mean {gate['mean']:.2f}",
                (gate["mean"], 1.0),
                (-4 if left else 4, -1),
                xycoords=("data", "axes fraction"),
                textcoords="offset points",
                ha="right" if left else "left",
                va="top",
                color=ORANGE,
            )
            title = f"{_fold(name, _columns(list(shown)))}\n{gate['saturated']:.0%} saturated"
            _panel(axes, title, "share of scores", "gate score (no unit)")
        figure.supxlabel(
            "0 = closed, what attention read is dropped      1 = open, it passes unchanged\n"
            "saturated: below 0.05 or above 0.95",
            fontsize=8.5,
        )
        return figure


def _loss_panel(axes: Axes, records: Sequence[Record], name: str, title: str) -> None:
    """Both curves of one loss. Single training values far outside the rest may leave the panel; means never do."""
    train, valid = _curve(records, f"train/{name}"), _curve(records, f"valid/{name}")
    inside = [valid[1]]
    if train[0].size:
        steps, values = _thin(train)
        smooth = len(train[0]) >= FEW
        line = {"color": BLUE, "label": "training, as logged", **_dots(steps)}
        axes.plot(steps, values, linewidth=0.7 if smooth else 1.4, alpha=0.35 if smooth else 1.0, **line)
        inside.append(train[1])
        if smooth:
            mean = _smooth(train)
            axes.plot(*mean, color=BLUE, linewidth=1.6, label="training, running mean")
            inside = [valid[1], mean[1]]
    if valid[0].size:
        axes.plot(*valid, color=ORANGE, linewidth=1.4, label="validation", **_dots(valid[0]))
        best = int(valid[1].argmin())
        at = valid[0][best], valid[1][best]
        axes.plot(*at, "o", markersize=9, markerfacecolor="none", markeredgecolor=INK, label="lowest validation")
        if name == "loss":
            title += f" (lowest validation {valid[1][best]:.4g} at step {int(valid[0][best]):,})"
    certain = np.concatenate(inside)
    usual = np.quantile(train[1], [0.02, 0.98]) if train[1].size else certain
    low, high = min(certain.min(), usual[0]), max(certain.max(), usual[-1])
    if low > 0 and certain.max() > 20 * certain.min():
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, place: f"{value:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set_ylim(low / 1.2, high * 1.2)
        _panel(axes, title, "loss (no unit, log scale)")
    else:
        margin = 0.07 * (high - low) or 0.1 * abs(high) or 1.0
        axes.set_ylim(low - margin, high + margin)
        _panel(axes, title, "loss (no unit)")


def _family_panel(axes: Axes, records: Sequence[Record], names: Sequence[str], title: str) -> None:
    """One term in each of several layers, in training if it was logged there, dark for the first to bright."""
    for i, name in enumerate(names):
        train = _curve(records, f"train/{name}")
        steps, values = _smooth(train if train[0].size else _curve(records, f"valid/{name}"))
        line = {"color": _shade(i, len(names)), "linewidth": 1.2, "label": name.rpartition("/")[2]}
        axes.plot(steps, values, **line, **_dots(steps))
    _panel(axes, title, "loss (no unit)")
    if len(names) <= len(CYCLE):
        axes.margins(y=0.3)
        axes.legend(title="running means, by number", fontsize=8.0, ncols=4, columnspacing=0.9)


def _legend(figure: Figure, panels: Iterable[Axes], leave_out: Sequence[str] = (), title: str = "") -> None:
    """One legend below all panels."""
    entries: dict[str, Any] = {}
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    kept = [label for label in entries if label not in leave_out]
    if kept:
        columns = min(5, len(kept))
        figure.legend([entries[k] for k in kept], kept, loc="outside lower center", ncols=columns, title=title or None)


def _panel(axes: Axes, title: str, ylabel: str, xlabel: str = STEP) -> None:
    axes.set_title(title)
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.grid(axis="y", color="#e4e4e4", linewidth=0.6)
    axes.set_axisbelow(True)
    if xlabel == STEP:
        axes.set_xlim(0, 1.03 * max(1.0, axes.dataLim.x1))
        axes.xaxis.set_major_locator(MaxNLocator(nbins=4, steps=[1, 2, 5, 10], integer=True))
        axes.xaxis.set_major_formatter(FuncFormatter(_thousands))


def _columns(names: Sequence[str]) -> int:
    return min(len(names), 3 if len(names) != 4 and max(map(len, names)) <= _FIT[3] else 2)


_FIT = {1: 44, 2: 34, 3: 20}
"""letters of a panel's title that fit, by columns"""


def _fold(name: str, columns: int) -> str:
    """A module's name on as many lines as it needs, broken before dots."""
    lines = [""]
    for part in name.replace(".", "\0.").split("\0"):
        if lines[-1] and len(lines[-1]) + len(part) > _FIT[columns]:
            lines.append("")
        lines[-1] += part
    return "\n".join(lines)


def _multiples(names: Sequence[str], height: float) -> tuple[Figure, list[Axes]]:
    """A figure of equal panels, three a row at most, with room below for a note."""
    columns = _columns(names)
    rows = math.ceil(len(names) / columns)
    size = (WIDTH if columns > 1 else 0.75 * WIDTH, height * rows + 0.8)
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).flatten().tolist()
    for spare in panels[len(names) :]:
        spare.remove()
    return figure, panels[: len(names)]


def _expert_style(expert: int, experts: int) -> tuple[Any, str]:
    if experts <= len(CYCLE):
        return CYCLE[expert % len(CYCLE)], DASHES[expert % len(DASHES)]
    return _shade(expert, experts), "-"


def _shade(i: int, count: int) -> Any:
    """Dark blue for the first to yellow for the last, even in brightness."""
    return colormaps["cividis"](0.9 * i / max(1, count - 1))


def _keys(records: Iterable[Record]) -> list[str]:
    """The keys that hold a finite number somewhere, in order of appearance."""
    return list(dict.fromkeys(key for record in records for key, value in record.items() if _is_number(value)))


def _curve(records: Iterable[Record], key: str) -> Curve:
    """Steps and values of the lines that hold a finite number under `key`; the last line wins where a step repeats."""
    points = {record["step"]: record[key] for record in records if _is_number(record.get(key)) and "step" in record}
    steps = sorted(points)
    return np.asarray(steps, float), np.asarray([points[step] for step in steps], float)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _thousands(step: float, place: int) -> str:
    return f"{step / 1000:g}k" if step >= 1000 else f"{step:g}"


def _smooth(curve: Curve) -> Curve:
    """Running mean over `SMOOTH` of the curve, centred; a curve of few lines as it is.

    Towards the start the window shrinks on both sides, so that the first steep fall is not flattened; at the end it is
    cut off on one side, so that the last values do not jump.
    """
    steps, values = curve
    if len(values) < FEW:
        return curve
    half = max(5, int(SMOOTH * len(values) / 2))
    sums = np.concatenate([[0.0], values.cumsum()])
    at = np.arange(0, len(values), max(1, len(values) // DENSE))
    first, last = at - np.minimum(at, half), np.minimum(at + np.minimum(at, half) + 1, len(values))
    return steps[at], (sums[last] - sums[first]) / (last - first)


def _thin(curve: Curve) -> Curve:
    """A long curve by the lowest and highest point of each of its pieces: it looks the same in far fewer bytes."""
    steps, values = curve
    if len(values) <= 2 * DENSE:
        return curve
    pieces = np.array_split(np.arange(len(values)), DENSE)
    keep = sorted({int(piece[end(values[piece])]) for piece in pieces for end in (np.argmin, np.argmax)})
    return steps[keep], values[keep]


def _dots(steps: np.ndarray) -> dict[str, Any]:
    """Dots where a line alone would hardly show: a run of a few lines, or one."""
    return {"marker": "o", "markersize": 3.0} if len(steps) < FEW else {}


def _natural(name: str) -> list[Any]:
    """Sort key that puts layer 10 after layer 9."""
    return [int(part) if i % 2 else part for i, part in enumerate(re.split(r"(\d+)", name))]
