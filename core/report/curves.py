"""Figures of a run's own curves: learning, expert load, gate scores.

Every function returns a `matplotlib.figure.Figure`, made without pyplot and so without global state, or None where
there is nothing to show. `records` are the lines of `metrics.jsonl`; any key may be missing on any line.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

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
"""share of a training curve's lines that its running mean covers"""

_STYLE = {
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
    "figure.facecolor": "white",
    "svg.hashsalt": "core.report",
}


def learning_curves(records: Sequence[Record]) -> Figure | None:
    """Total loss on top, every loss term below it, then learning rate and gradient norm, over optimiser steps.

    Training values are drawn twice, as logged and as their running mean; validation as dots, the lowest ringed.
    """
    keys = _keys(records)
    names = [key.split("/", 1)[1] for key in keys if key.split("/", 1)[0] in ("train", "valid") and "/" in key]
    names = [name for name in dict.fromkeys(names) if name == "loss" or name.startswith("loss/")]
    names.sort(key=lambda name: (name != "loss", name))
    small = [(key, title, label) for key, title, label in _SCALARS if key in keys]
    if not names and not small:
        return None
    with rc_context(_STYLE):
        top = names[:1] if names and names[0] == "loss" else []
        rest = [*names[len(top) :], *small]
        rows = math.ceil(len(rest) / 2)
        figure = Figure(figsize=(WIDTH, 2.9 * len(top) + 2.1 * rows + 0.1), layout="constrained")
        grid = figure.add_gridspec(len(top) + rows, 2, height_ratios=[1.4] * len(top) + [1.0] * rows)
        for i, what in enumerate([*top, *rest]):
            place = grid[0, :] if i < len(top) else grid[len(top) + (i - len(top)) // 2, (i - len(top)) % 2]
            axes = figure.add_subplot(place)
            if isinstance(what, str):
                train, valid = (_curve(records, f"{part}/{what}") for part in ("train", "valid"))
                title = "Loss" if what == "loss" else f"Loss term: {what.removeprefix('loss/')}"
                _loss_panel(axes, train, valid, title, legend=i == 0)
            else:
                key, title, label = what
                axes.plot(*_curve(records, key), color=INK, linewidth=1.2)
                _panel(axes, title, label)
        return figure


_SCALARS = (
    ("lr", "Learning rate", "learning rate (per step)"),
    ("grad_norm", "Gradient norm, before clipping", "L2 norm of the gradient"),
)


def expert_load(records: Sequence[Record]) -> Figure | None:
    """For each mixture layer, the share of its assignments that each expert gets, over optimiser steps.

    Reads keys `stat/<layer>/load/<i>`. The dashed line is the even share 1/E of E experts.
    """
    layers: dict[str, list[int]] = {}
    for key in _keys(records):
        layer, load, expert = (key.removeprefix("stat/").rsplit("/", 2) + ["", ""])[:3]
        if key.startswith("stat/") and load == "load" and expert.isdigit():
            layers.setdefault(layer, []).append(int(expert))
    if not layers:
        return None
    with rc_context(_STYLE):
        figure, panels = _multiples(len(layers), 1.9, note=0.75)
        most = max(len(experts) for experts in layers.values())
        highest = 0.0
        for axes, (layer, experts) in zip(panels, sorted(layers.items(), key=lambda item: _natural(item[0])), strict=True):
            for i in sorted(experts):
                steps, share = _curve(records, f"stat/{layer}/load/{i}")
                highest = max(highest, share.max())
                colour, dash = _expert_style(i, most)
                axes.plot(steps, share, color=colour, linestyle=dash, linewidth=1.2, label=f"expert {i}")
            even = 1 / len(experts)
            axes.axhline(even, color=INK, linestyle=(0, (6, 3)), linewidth=1.0, label="even share, 1 / experts")
            highest = max(highest, even)
            _panel(axes, layer, "share of assignments")
        for axes in panels:
            axes.set_ylim(0, min(1.02, 1.15 * highest))
        handles, labels = max((axes.get_legend_handles_labels() for axes in panels), key=lambda pair: len(pair[1]))
        if most > len(CYCLE):
            handles, labels = [handles[0], handles[-2], handles[-1]], [f"{labels[0]} (dark)", f"{labels[-2]} (bright)", labels[-1]]
        figure.legend(handles, labels, loc="outside lower center", ncols=min(4, len(labels)))
        return figure


def gate_histograms(gates: Mapping[str, Mapping[str, Any]]) -> Figure | None:
    """One histogram of gate scores for each gated layer, its mean marked, and the saturated share in words."""
    shown = {name: gate for name, gate in gates.items() if sum(gate.get("counts", ())) > 0}
    if not shown:
        return None
    with rc_context(_STYLE):
        figure, panels = _multiples(len(shown), 2.0, note=0.75)
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
            _panel(axes, f"{name}\n{gate['saturated']:.0%} saturated", "share of scores", "gate score (no unit)")
        figure.supxlabel(
            "0 = closed, what attention read is dropped      1 = open, it passes unchanged\n"
            "saturated: below 0.05 or above 0.95",
            fontsize=8.5,
        )
        return figure


def svg_text(figure: Figure) -> str:
    """The figure as SVG text: letters as outlines, no date, the same bytes for the same figure."""
    buffer = io.StringIO()
    with rc_context(_STYLE):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def _loss_panel(axes: Axes, train: Curve, valid: Curve, title: str, *, legend: bool) -> None:
    if train[0].size:
        axes.plot(*train, color=BLUE, linewidth=0.7, alpha=0.35, label="training, as logged")
        axes.plot(train[0], _running_mean(train[1]), color=BLUE, linewidth=1.6, label="training, running mean")
    if valid[0].size:
        axes.plot(*valid, color=ORANGE, linewidth=1.2, marker="o", markersize=3.5, label="validation")
        best = int(valid[1].argmin())
        axes.plot(
            valid[0][best], valid[1][best], "o", markersize=9, markerfacecolor="none", markeredgecolor=INK,
            label=f"lowest validation: {valid[1][best]:.4g} at step {int(valid[0][best]):,}",
        )  # fmt: skip
    both = np.concatenate([train[1], valid[1]])
    log = both.min() > 0 and both.max() / both.min() > 20
    if log:
        axes.set_yscale("log")
    _panel(axes, title, "loss (no unit, log scale)" if log else "loss (no unit)")
    if legend:
        axes.legend(loc="best")


def _panel(axes: Axes, title: str, ylabel: str, xlabel: str = "optimiser step") -> None:
    axes.set_title(title)
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.grid(axis="y", color="#e4e4e4", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5))


def _multiples(count: int, height: float, *, note: float) -> tuple[Figure, list[Axes]]:
    """A figure of `count` equal panels, three a row at most; `note` inches are kept for the words below."""
    columns = min(count, 3)
    rows = math.ceil(count / columns)
    figure = Figure(figsize=(WIDTH if columns > 1 else 0.7 * WIDTH, height * rows + note), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).flatten().tolist()
    for spare in panels[count:]:
        spare.remove()
    return figure, panels[:count]


def _expert_style(expert: int, experts: int) -> tuple[Any, str]:
    if experts <= len(CYCLE):
        return CYCLE[expert % len(CYCLE)], DASHES[expert % len(DASHES)]
    return colormaps["cividis"](expert / (experts - 1)), "-"


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


def _running_mean(values: np.ndarray) -> np.ndarray:
    """Centred mean over a window of `SMOOTH` of the curve, cut off evenly at both ends so that it doesn't lag."""
    half = int(SMOOTH * len(values) / 2)
    sums = np.concatenate([[0.0], values.cumsum()])
    at = np.arange(len(values))
    reach = np.minimum(np.minimum(at, at[::-1]), half)
    return (sums[at + reach + 1] - sums[at - reach]) / (2 * reach + 1)


def _natural(name: str) -> list[Any]:
    """Sort key that puts layer 10 after layer 9."""
    return [(1, int(part), "") if part.isdigit() else (0, 0, part) for part in name.split(".")]
