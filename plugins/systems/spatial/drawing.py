"""How the figures of a spatial evaluation are drawn. N cells, P axes of space (2 or 3), k genes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, final

import attrs
import numpy as np

from core.kinds.system import Score
from core.score import CEILING, MODEL, is_model

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH = 9.0
"""inches; 864 px in a page"""
OWN, PLAIN, BEST = "#D55E00", "#5B6670", "#0072B2"


@final
@attrs.frozen(eq=False)
class Paint:
    """How the dots of a unit are coloured, and what explains it."""

    colours: np.ndarray
    """a colour a dot (N,), or values (N,) from 0 to 1 where the legend is empty"""
    says: str
    """a sentence for the caption"""
    legend: dict[str, str] = attrs.field(factory=dict)
    """name of a group to its colour"""


def draw_tissue(panels: dict[str, tuple[np.ndarray, str]], planes: list[tuple[int, int]], paint: Paint) -> Figure:
    """One column a placement.

    Args:
        panels: positions (N, P) and a line to print below them, by title; the truth comes first and sets the frame.
        planes: the pairs of axes to look at, one row each.
        paint: the colour of each cell.
    """
    true_NP, *placed = (x_NP for x_NP, _ in panels.values())
    low_P, high_P = true_NP.min(0), true_NP.max(0)
    for x_NP in placed:
        low_P, high_P = np.minimum(low_P, np.quantile(x_NP, 0.005, 0)), np.maximum(high_P, np.quantile(x_NP, 0.995, 0))
    heights = [ratio(high_P - low_P, plane) * WIDTH / len(panels) for plane in planes]
    title, gap, below = 0.32, 0.12, 0.3
    below += 0.25 + 0.22 * -(-len(paint.legend) // 4) if paint.legend else 0.95
    tall = title + sum(heights) + gap * (len(planes) - 1) + below
    # Laid out by hand: the automatic layouts cut titles where axes keep their aspect.
    figure = canvas(tall, layout=None)
    axes = figure.subplots(len(planes), len(panels), squeeze=False, height_ratios=heights)
    figure.subplots_adjust(0.01, below / tall, 0.99, 1 - title / tall, 0.04, gap * len(planes) / sum(heights))
    for row, plane in zip(axes, planes, strict=True):
        for ax, (name, (x_NP, score)) in zip(row, panels.items(), strict=True):
            dots = scatter(ax, x_NP, plane, paint.colours, (0.0, 1.0))
            frame(ax, low_P, high_P, plane)
            if plane == planes[0]:
                ax.set_title(name, fontsize=10.5)
            if plane == planes[-1]:
                ax.set_xlabel(score, fontsize=10.5)
    if paint.legend:
        from matplotlib.lines import Line2D

        handles = [Line2D([], [], marker="o", ls="", ms=7, color=colour) for colour in paint.legend.values()]
        figure.legend(handles, list(paint.legend), loc="lower center", ncols=4, frameon=False, fontsize=10)
    else:
        beside = figure.add_axes((0.3, 0.55 / tall, 0.4, 0.14 / tall))
        bar = figure.colorbar(dots, cax=beside, orientation="horizontal", ticks=[0, 1])
        beside.set_xticklabels(["one end", "other end"])
        bar.set_label("true place along the longest axis")
    return figure


def draw_genes(names: list[str], position_NP: np.ndarray, true_Nk: np.ndarray, model_Nk: np.ndarray) -> Figure:
    """One column a gene, measured above predicted, on one colour scale; all arrays are in the same order of cells."""
    plane = planes_of(position_NP)[0]
    low_P, high_P = position_NP.min(0), position_NP.max(0)
    wide = WIDTH / max(3, len(names))
    figure = canvas(2 * wide * ratio(high_P - low_P, plane) + 1.6)
    axes = figure.subplots(2, len(names), squeeze=False)
    for gene, name in enumerate(names):
        low, high = np.quantile(true_Nk[:, gene], (0.02, 0.98))
        for row, values_Nk in enumerate((true_Nk, model_Nk)):
            ax = axes[row, gene]
            dots = scatter(ax, position_NP, plane, values_Nk[:, gene], (low, high))
            frame(ax, low_P, high_P, plane)
        axes[0, gene].set_title(name, fontsize=12, style="italic")
        both = np.stack([true_Nk[:, gene], model_Nk[:, gene]])
        r = np.corrcoef(both)[0, 1] if (np.ptp(both, 1) > 0).all() else 0.0
        axes[1, gene].set_title(f"r = {r:.2f}", fontsize=10)
        bar = figure.colorbar(dots, ax=list(axes[:, gene]), location="bottom", shrink=0.8, aspect=25, extend="both")
        bar.set_label("expression (model units)", fontsize=9)
    for row, name in enumerate(("measured", "model")):
        axes[row, 0].set_ylabel(name, fontsize=11)
    return figure


def draw_maps(position_NP: np.ndarray, panels: dict[str, np.ndarray], label: str) -> Figure:
    """One column a layer: values (N,) over the tissue, each on its own scale, from its 2nd to its 98th percentile."""
    plane = planes_of(position_NP)[0]
    low_P, high_P = position_NP.min(0), position_NP.max(0)
    wide = WIDTH / max(3, len(panels))
    figure = canvas(wide * ratio(high_P - low_P, plane) + 1.0)
    axes = figure.subplots(1, max(3, len(panels)), squeeze=False)[0]
    for ax in axes[len(panels) :]:
        ax.set_axis_off()
    for ax, (name, values_N) in zip(axes, panels.items(), strict=False):
        low, high = np.quantile(values_N, (0.02, 0.98)).tolist()
        if high - low < 1e-3 * max(1.0, abs(high)):  # an even map is one colour, not the noise of its last digits
            low, high = low - 0.01 * max(1.0, abs(low)), high + 0.01 * max(1.0, abs(high))
        dots = scatter(ax, position_NP, plane, values_N, (low, high))
        frame(ax, low_P, high_P, plane)
        ax.set_title(name, fontsize=10.5)
        bar = figure.colorbar(dots, ax=ax, location="bottom", shrink=0.85, aspect=22, extend="both")
        bar.set_label(label, fontsize=9)
        bar.ax.locator_params(nbins=4)
        bar.ax.tick_params(labelsize=8.5)
    return figure


def draw_scores(scores: list[Score]) -> Figure:
    """One panel a metric, one line an arm, for the scores of one task."""
    metrics = list(dict.fromkeys(s.metric for s in scores))
    arms = list(dict.fromkeys(s.arm for s in scores))
    arms.sort(key=lambda arm: 0 if arm == CEILING else 1 if is_model(arm) else 2)
    columns = min(3, len(metrics))
    rows = -(-len(metrics) // columns)
    figure = canvas(rows * (0.26 * len(arms) + 1.05))
    axes = figure.subplots(rows, columns, squeeze=False, sharey=True)
    for ax in axes.flat[len(metrics) :]:
        ax.set_axis_off()
    for ax, metric in zip(axes.flat, metrics, strict=False):
        here = {s.arm: s for s in scores if s.metric == metric}
        for arm, score in here.items():
            y = arms.index(arm)
            colour, marker = (BEST, "D") if arm == CEILING else (OWN if is_model(arm) else PLAIN, "o")
            if len(score.units) > 1:
                ax.plot(list(score.units.values()), [y] * len(score.units), "o", ms=3, color=colour, alpha=0.35, mew=0)
            ax.plot([score.value], [y], marker, ms=8 if arm == MODEL else 6.5, color=colour, zorder=3)
            weight = "bold" if arm == MODEL else "normal"
            ax.annotate(
                _number(score.value),
                (1.02, y),
                xycoords=("axes fraction", "data"),
                va="center",
                fontsize=9,
                weight=weight,
            )
            if arm == CEILING:
                ax.axvline(score.value, color=colour, lw=1, ls=":", zorder=1)
        some = next(iter(here.values()))
        ax.set_title(some.label.replace(" (", "\n(", 1), fontsize=10)
        ax.set_xlabel("better →" if some.higher else "← better", fontsize=9, color="#333333")
        ax.grid(axis="x", color="#E8E8E8", lw=0.8)
        ax.tick_params(axis="x", labelsize=8.5)
        ax.tick_params(axis="y", length=0)
        ax.margins(x=0.12)
        ax.locator_params(axis="x", nbins=4)
        ax.spines[["top", "right", "left"]].set_visible(False)
    for ax in axes[:, 0]:
        ax.set_yticks(range(len(arms)), arms, fontsize=10)
        ax.set_ylim(len(arms) - 0.5, -0.5)
    return figure


def _number(value: float) -> str:
    # Adding 0 turns the -0 of a rounded small value into 0.
    return f"{round(value, 3) + 0.0:.3f}" if abs(value) < 10 else f"{value:.1f}"


def planes_of(true_NP: np.ndarray) -> list[tuple[int, int]]:
    """The pairs of axes to look at: the first two, and where there is depth the first and third."""
    span_P = np.ptp(true_NP, 0)
    return [(0, 1), (0, 2)] if len(span_P) > 2 and span_P[2] > 0.02 * span_P.max() else [(0, 1)]


def scatter(
    ax: Any, x_NP: np.ndarray, plane: tuple[int, int], colours_N: np.ndarray, limits: tuple[float, float]
) -> Any:
    """Dots, those nearest to the eye on top; without depth in a random order, so that no group hides another.

    `colours_N` are colours, or values that run through the colour map from the first to the second limit.
    """
    hidden = [axis for axis in range(x_NP.shape[1]) if axis not in plane]
    depth_N = x_NP[:, hidden[0]] if hidden else np.random.default_rng(0).random(len(x_NP))
    order_N = np.argsort(depth_N, kind="stable")
    size = float(np.clip(7000 / len(x_NP), 1.5, 22))
    groups = colours_N.dtype.kind == "U"
    # Thousands of vector dots would make a file of megabytes, and so would many shades at blurred edges.
    scale = {} if groups else {"cmap": _shades(), "vmin": limits[0], "vmax": limits[1]}
    smooth = groups and len(x_NP) < 3000
    x_NP, colours_N = x_NP[order_N][:, plane], colours_N[order_N]
    return ax.scatter(*x_NP.T, c=colours_N, s=size, lw=0, antialiased=smooth, rasterized=True, **scale)


def _shades() -> Any:
    from matplotlib import colormaps

    return colormaps["viridis"].resampled(12)


def frame(ax: Any, low_P: np.ndarray, high_P: np.ndarray, plane: tuple[int, int]) -> None:
    margin = 0.04 * (high_P - low_P).max()
    ax.set_xlim(low_P[plane[0]] - margin, high_P[plane[0]] + margin)
    ax.set_ylim(low_P[plane[1]] - margin, high_P[plane[1]] + margin)
    ax.set_aspect("equal")
    ax.set_xticks([])
    ax.set_yticks([])
    for side in ax.spines.values():
        side.set_color("#CCCCCC")


def ratio(span_P: np.ndarray, plane: tuple[int, int]) -> float:
    """Height over width of a panel, kept readable."""
    return float(np.clip(span_P[plane[1]] / max(span_P[plane[0]], 1e-12), 0.25, 1.5))


def canvas(height: float, layout: Literal["constrained"] | None = "constrained") -> Figure:
    """An empty figure of the page's width. The object interface: pyplot would keep every figure of a process alive."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height), dpi=96, layout=layout)
    if layout is not None:
        figure.set_layout_engine(layout, h_pad=0.1, w_pad=0.06)
    return figure
