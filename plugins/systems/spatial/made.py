"""Cells made from nothing beside a true section: which type each would be, and the figure.

M made, N true and n known cells, G genes, P axes of space, k genes shown, T types.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from core.kinds.system import Picture, Score
from core.score import MODEL
from plugins.systems.spatial.drawing import WIDTH, Paint, canvas, frame, planes_of, ratio, scatter

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KNOWN, NEAR = 8192, 15
"""known cells that are looked at, and how many of them vote for the type of a made one"""
GENES = 2
"""genes shown"""
COHERENCE = "joint_coherence"


def types_of(made_MG: np.ndarray, known_nG: np.ndarray, type_n: np.ndarray) -> np.ndarray:
    """The commonest type (M,) among the 15 known cells nearest to each made one in expression; -1: none is known.

    Of equally common types the one with the lower number. Of more than 8,192 known cells that many are looked at,
    evenly spread.
    """
    typed_n = np.flatnonzero(type_n >= 0)
    if not len(typed_n) or not len(made_MG):
        return np.full(len(made_MG), -1)
    some_n = typed_n[np.arange(min(KNOWN, len(typed_n))) * len(typed_n) // min(KNOWN, len(typed_n))]
    known_nG, type_n = known_nG[some_n].astype(np.float64), type_n[some_n]
    # Without the made cell's own square, which does not change who is nearest.
    apart_Mn = np.square(known_nG).sum(1) - 2 * made_MG.astype(np.float64) @ known_nG.T
    near = min(NEAR, len(some_n))
    votes_Mk = type_n[np.argpartition(apart_Mn, near - 1, axis=1)[:, :near]]
    count_MT = (votes_Mk[..., None] == np.arange(type_n.max() + 1)).sum(1)
    return count_MT.argmax(1)


def made_picture(
    arrays: Mapping[str, np.ndarray], scores: tuple[Score, ...], unit: str, true: Paint, made: Paint | None
) -> Picture:
    """Made cells beside the section `unit`, by type where `made` paints types, and by expression.

    Args:
        arrays: see `plugins.systems.spatial.pictures`.
        scores: of the evaluation.
        unit: a section with made cells.
        true: how the true cells are painted.
        made: the made cells in the same colours; None: no types are known.
    """
    true_NP, made_MP = (arrays[f"{key}/{unit}"].astype(float) for key in ("true", "made_place"))
    true_NP, made_MP = true_NP - true_NP.mean(0), made_MP - made_MP.mean(0)
    names = [str(name) for name in arrays["genes"][:GENES]]
    values = [arrays[f"{key}/{unit}"].astype(float) for key in ("expression_true", "made_expression")]
    found = next((s.units.get(unit) for s in scores if s.metric == COHERENCE and s.arm == MODEL), None)
    coloured = (
        "Top: colour is the cell type, measured on the left; on the right the commonest among the 15 training cells "
        "nearest in expression, as a made cell has none of its own. "
        if made is not None
        else ""
    )
    number = f" Joint coherence is {found:.2f}: 1 where made pairs agree as real pairs do." if found is not None else ""
    return Picture(
        name="made",
        title=f"Cells made from nothing, beside {unit}",
        caption=(
            f"Each dot is a cell: of the true section (left), and one of {len(made_MP):,} whose place and expression "
            f"the model made together from noise (right). {coloured}The genes are those that it predicts best from "
            "place; both panels share one colour scale, from the 2nd to the 98th percentile of the measured values. "
            "No made cell stands for a true one: look at whether layers, their order and their edges are there. Made "
            f"tissue is centred, and neither turned nor scaled.{number}"
        ),
        draw=lambda: _draw(true_NP, made_MP, (true, made) if made is not None else None, names, *values),
    )


def _draw(
    true_NP: np.ndarray,
    made_MP: np.ndarray,
    paints: tuple[Paint, Paint] | None,
    names: list[str],
    true_Nk: np.ndarray,
    made_Mk: np.ndarray,
) -> Figure:
    """One row for types and one a gene; the true section left, the made cells right."""
    plane = planes_of(true_NP)[0]
    low_P = np.minimum(true_NP.min(0), np.quantile(made_MP, 0.005, 0))
    high_P = np.maximum(true_NP.max(0), np.quantile(made_MP, 0.995, 0))
    rows = ([] if paints is None else ["cell type"]) + names
    wide = WIDTH / 2.2
    figure = canvas(len(rows) * (wide * ratio(high_P - low_P, plane) + 0.35) + 0.3)
    figure.set_layout_engine("constrained", rect=(0.03, 0.0, 0.97, 1.0))  # room for names left of panels that move
    axes = figure.subplots(len(rows), 2, squeeze=False)
    for row, name in enumerate(rows):
        gene = row - (paints is not None)
        low, high = (0.0, 1.0) if gene < 0 else np.quantile(true_Nk[:, gene], (0.02, 0.98)).tolist()
        for column, x_NP in enumerate((true_NP, made_MP)):
            values = (true_Nk, made_Mk)[column][:, gene]
            colours = values if gene >= 0 or paints is None else paints[column].colours
            dots = scatter(axes[row, column], x_NP, plane, colours, (low, high))
            frame(axes[row, column], low_P, high_P, plane)
        axes[row, 0].set_ylabel(name, fontsize=11, style="italic" if gene >= 0 else "normal")
        if gene >= 0:
            figure.colorbar(dots, ax=list(axes[row]), location="right", shrink=0.8, aspect=20, extend="both")
    for column, name in enumerate(("true section", "made from nothing")):
        axes[0, column].set_title(name, fontsize=11)
    if paints is not None:
        from matplotlib.lines import Line2D

        handles = [Line2D([], [], marker="o", ls="", ms=7, color=colour) for colour in paints[0].legend.values()]
        figure.legend(handles, list(paints[0].legend), loc="outside lower center", ncols=4, frameon=False, fontsize=10)
    return figure
