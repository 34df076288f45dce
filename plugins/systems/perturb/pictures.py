"""The figures of an evaluation of perturbation responses. n cells, G genes, k shown genes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from core.kinds import Evaluation, Picture, Score
from core.score import MODEL
from plugins.systems.perturb.evaluation import RIVALS, TASK

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 9.0
"""inches"""
OWN, PLAIN, TRUE = "#D55E00", "#5B6670", "#0072B2"
TOP = 12
"""genes of a condition that are drawn one by one"""
DETAILED = 3
"""conditions whose genes are"""
COLUMN = "pearson_delta"

Arrays = dict[str, np.ndarray]


def pictures(evaluation: Evaluation) -> Iterable[Picture]:
    """Scores by condition, effects gene by gene, the genes that change most, and cells in two dimensions."""
    arrays = evaluation.arrays
    # Names of conditions may hold slashes themselves.
    effects = [key.removeprefix("effect/") for key in arrays if key.startswith("effect/")]
    names = [key.removesuffix("/true") for key in effects if key.endswith("/true")]
    by_condition = [s for s in evaluation.scores if s.task == TASK and s.metric == COLUMN and s.units]
    if any(s.arm == MODEL for s in by_condition):
        yield Picture(
            name="conditions",
            title="Each held-out condition",
            caption=(
                "Pearson correlation of predicted with real effect over genes, one row a condition, the model (orange) "
                "beside baselines (grey). An effect is the mean of the condition's cells less that of real controls."
            ),
            draw=lambda: _draw_conditions(by_condition),
        )
    if not names:
        return
    yield Picture(
        name="effects",
        title="Effects, gene by gene",
        caption=(
            "Predicted (upwards) against real effect (to the right) of every gene, for the held-out conditions with "
            "the strongest real effects; on the line both agree. Units are those of log(1 + normalised counts)."
        ),
        draw=lambda: _draw_effects(names, arrays),
    )
    yield Picture(
        name="genes",
        title="The genes that change most",
        caption=(
            f"Real (blue) and predicted (orange) cells for the {TOP} genes of largest real effect of each condition: "
            "median, quartiles and 5 to 95 % of cells. A box at 0 alone is a gene that most cells do not express."
        ),
        draw=lambda: _draw_genes(names[:DETAILED], arrays),
    )
    yield Picture(
        name="cells",
        title="Predicted and real cells in two dimensions",
        caption=(
            "Real cells (blue), predicted cells (orange) and controls (grey) on the first two principal components of "
            "the real cells shown. Predicted cells should lie on the real ones, as widely spread; a tight cluster is "
            "mode collapse, a cloud upon the controls is no response."
        ),
        draw=lambda: _draw_cells(names, arrays),
    )


def _canvas(height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(WIDTH, height), layout="constrained")


def _draw_conditions(scores: list[Score]) -> Figure:
    by_arm = {s.arm: s.units for s in scores}
    own = by_arm[MODEL]
    order = sorted(own, key=lambda name: own[name])
    figure = _canvas(0.24 * len(order) + 1.2)
    ax = figure.subplots()
    marks = dict(zip(RIVALS, "sD^", strict=True))
    for arm, mark in marks.items():
        if arm in by_arm:
            values = [by_arm[arm].get(name, np.nan) for name in order]
            ax.plot(values, range(len(order)), mark, ms=5, color=PLAIN, alpha=0.75, label=arm)
    ax.plot([own[name] for name in order], range(len(order)), "o", ms=7, color=OWN, label=MODEL)
    ax.set_yticks(range(len(order)), order, fontsize=8.5)
    ax.axvline(0, color="#C0C4C8", lw=0.8, zorder=0)
    ax.grid(axis="x", color="#E8E8E8", lw=0.8)
    ax.set_xlabel("Pearson of effects")
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.tick_params(axis="y", length=0)
    ax.legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


def _draw_effects(names: list[str], arrays: Arrays) -> Figure:
    columns = min(3, len(names))
    rows = -(-len(names) // columns)
    figure = _canvas(WIDTH / columns * rows * 0.95)
    axes = figure.subplots(rows, columns, squeeze=False)
    for ax in axes.flat[len(names) :]:
        ax.set_visible(False)
    for ax, name in zip(axes.flat, names, strict=False):
        true_G, made_G = arrays[f"effect/{name}/true"], arrays[f"effect/{name}/{MODEL}"]
        reach = 1.05 * max(float(np.abs(true_G).max()), float(np.abs(made_G).max()), 1e-6)
        ax.plot([-reach, reach], [-reach, reach], color="#C0C4C8", lw=1, zorder=0)
        ax.plot(true_G, made_G, "o", ms=3, color=OWN, alpha=0.6, mew=0, rasterized=True)
        ax.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")
        ax.set_title(name, fontsize=10)
        ax.spines[["top", "right"]].set_visible(False)
    figure.supxlabel("real effect", fontsize=10)
    figure.supylabel("predicted effect", fontsize=10)
    return figure


def _draw_genes(names: list[str], arrays: Arrays) -> Figure:
    figure = _canvas(3.2 * len(names))
    for ax, name in zip(figure.subplots(len(names), squeeze=False)[:, 0], names, strict=True):
        _boxes(ax, name, arrays)
        ax.set_title(name, fontsize=10, loc="left")
    figure.supylabel("log(1 + normalised counts)", fontsize=9.5)
    return figure


def _boxes(ax: Axes, name: str, arrays: Arrays) -> None:
    top_k = np.argsort(-np.abs(arrays[f"effect/{name}/true"]))[:TOP]
    for shift, side, colour in ((-0.18, "true", TRUE), (0.18, MODEL, OWN)):
        values_nk = arrays[f"cells/{name}/{side}"][:, top_k]
        drawn = ax.boxplot(
            values_nk, positions=np.arange(len(top_k)) + shift, widths=0.3, whis=(5, 95), showfliers=False,
            patch_artist=True, medianprops={"color": "black"},
        )  # fmt: skip
        for box in drawn["boxes"]:
            box.set(facecolor=colour, alpha=0.65)
    labels = [str(gene) for gene in arrays["genes"][top_k]]
    ax.set_xticks(range(len(top_k)), labels, rotation=45, ha="right", fontsize=9)
    ax.spines[["top", "right"]].set_visible(False)


def _draw_cells(names: list[str], arrays: Arrays) -> Figure:
    real_nG = np.concatenate([arrays[f"cells/{name}/true"] for name in names]).astype(np.float64)
    made_nG = np.concatenate([arrays[f"cells/{name}/{MODEL}"] for name in names]).astype(np.float64)
    control_nG = np.concatenate([v for key, v in sorted(arrays.items()) if key.startswith("controls/")])
    middle_G = real_nG.mean(0)
    _, _, axes_GG = np.linalg.svd(real_nG - middle_G, full_matrices=False)
    figure = _canvas(5.2)
    ax = figure.subplots()
    for label, colour, cells_nG in (
        ("controls", "#B8BEC4", control_nG), ("real", TRUE, real_nG), ("predicted", OWN, made_nG),
    ):  # fmt: skip
        at_n2 = (cells_nG - middle_G) @ axes_GG[:2].T
        ax.plot(at_n2[:, 0], at_n2[:, 1], "o", ms=3.5, mew=0, alpha=0.6, color=colour, label=label, rasterized=True)
    ax.set(xticks=[], yticks=[], xlabel="first component", ylabel="second component")
    ax.legend(frameon=False, fontsize=9.5, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    ax.spines[["top", "right"]].set_visible(False)
    return figure
