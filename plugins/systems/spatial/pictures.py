"""Figures of an evaluation: the tissue, a few genes, and every score beside its baselines.

Drawn from `Evaluation.arrays`, with u a test unit:

- `cell_types`: names; `type/<u>`: codes into them (N,), -1 where unknown;
- `true/<u>`: positions (N, P); `placed/<arm>/<u>`: positions (N, P) by the model and by baselines;
- `genes`: names (k,) of those the model predicts best, middling and worst; `expression_true/<u>` and
  `expression_model/<u>`: values (N, k); `expression_error/<arm>/<u>`: mean squared error of each cell (N,);
- `made_place/<u>`, `made_expression/<u>`, `made_type/<u>`: cells made from nothing: (M, P), (M, k), codes (M,);
- `seen/<u>`: positions (n, P) of the cells whose attention and gates are mapped; `attention/<u>/<layer>` and
  `gate/<u>/<layer>`: values (n,), as `plugins.systems.spatial.maps.mapped` tells;
- `way/<u>`: positions (S, N, P) on the way of one sample; `experts/<u>/<layer>`: share of each expert by type (T, E).

Arms are `model`, variants of it such as `model, one sample`, baselines, and `ceiling`.

N cells, P axes of space (2 or 3), k genes.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from core.kinds.system import Evaluation, Picture, Score
from core.score import CEILING, is_model
from plugins.systems.spatial.details import details, maps
from plugins.systems.spatial.drawing import Paint, draw_genes, draw_scores, draw_tissue, planes_of
from plugins.systems.spatial.geometry import rotation
from plugins.systems.spatial.made import made_picture

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000")
"""apart for colour-blind readers too (Okabe and Ito 2008)"""
OTHER, UNKNOWN = "#B5B5B5", "#E3E3E3"
PLACING, SPEARMAN = "expression to position", "distance_spearman"


def pictures(evaluation: Evaluation) -> list[Picture]:
    """The figures that the arrays and scores of an evaluation allow, nothing drawn yet."""
    arrays, scores = evaluation.arrays, evaluation.scores
    found = []
    unit = _typical(arrays, scores)
    if unit is not None:
        found += _tissue(arrays, scores, unit)
        if f"expression_model/{unit}" in arrays:
            found.append(_genes(arrays, unit))
        found += details(arrays, unit, align)
        found += _made(arrays, scores, unit)
    found += maps(arrays)
    return found + [_scores(task, scores) for task in dict.fromkeys(s.task for s in scores)]


def align(predicted_NP: np.ndarray, true_NP: np.ndarray) -> np.ndarray:
    """The prediction in the frame of the truth, for the eye: shifted, turned or mirrored, and given its spread.

    Scaled to equal spread and not to least squares, which would shrink a poor prediction to a dot. Cells that all lie
    on one spot stay on one, at the middle of the truth.
    """
    middle_P = true_NP.mean(0)
    predicted_NP, true_NP = predicted_NP - predicted_NP.mean(0), true_NP - middle_P
    spread = float(np.linalg.norm(predicted_NP))
    scale = float(np.linalg.norm(true_NP)) / spread if spread > 1e-9 * max(1.0, np.abs(true_NP).max()) else 0.0
    return scale * predicted_NP @ rotation(predicted_NP, true_NP) + middle_P


def _judge(scores: tuple[Score, ...]) -> Score | None:
    """The score that placements are shown with: Spearman of distances, else the first that judges placements."""
    placing = [s for s in scores if s.task == PLACING]
    return next((s for s in placing if s.metric.startswith(SPEARMAN)), next(iter(placing), None))


def _typical(arrays: Mapping[str, np.ndarray], scores: tuple[Score, ...]) -> str | None:
    """The unit on which the model scores in the middle: neither the best nor the worst is shown."""
    units = sorted(name.removeprefix("true/") for name in arrays if name.startswith("true/"))
    judge = _judge(scores)
    by_unit = next((s.units for s in scores if judge and s.metric == judge.metric and s.arm == "model"), {})
    units.sort(key=lambda unit: by_unit.get(unit, 0.0))
    return units[(len(units) - 1) // 2] if units else None


def _tissue(arrays: Mapping[str, np.ndarray], scores: tuple[Score, ...], unit: str) -> list[Picture]:
    judge = _judge(scores)
    by_arm = {s.arm: s.units.get(unit, s.value) for s in scores if judge and s.metric == judge.metric}
    placed = {arm: value for arm, value in by_arm.items() if f"placed/{arm}/{unit}" in arrays and arm != CEILING}
    if judge is None or not placed:
        return []
    own = sorted(arm for arm in placed if is_model(arm))
    rivals = sorted(placed.keys() - own, key=lambda arm: (placed[arm], arm), reverse=judge.higher)
    short = "Spearman" if judge.metric.startswith(SPEARMAN) else judge.label
    true_NP = arrays[f"true/{unit}"].astype(float)
    panels = {"truth": (true_NP, "")}
    for arm in own + rivals[:1]:
        place_NP = align(arrays[f"placed/{arm}/{unit}"].astype(float), true_NP)
        panels[arm if arm in own else f"baseline: {arm}"] = place_NP, f"{short} {placed[arm]:.2f}"
    planes, paint = planes_of(true_NP), _paint(arrays, unit)
    views = "The upper row looks along the third axis, the lower row along the second. " if len(planes) > 1 else ""
    number = (
        "The number is Spearman's correlation between a cell's true and predicted distances to all others, for the "
        "median cell: 1 is perfect, 0 is chance."
        if short == "Spearman"
        else f"The number is the {short}."
    )
    return [
        Picture(
            name="tissue",
            title=f"Where the cells of {unit} are placed",
            caption=(
                "Each dot is a cell, at its true place (left) and where it is placed from its expression alone, by the "
                "model and by the best of the baselines (right). "
                f"{paint.says} {views}For this picture only, placements are shifted, turned or mirrored, and scaled to "
                f"the spread of the truth; up to 1 % of the placed cells may lie outside the frame. {number} Shown "
                "is the test unit on which the model scores in the middle."
            ),
            draw=lambda: draw_tissue(panels, planes, paint),
        )
    ]


def _made(arrays: Mapping[str, np.ndarray], scores: tuple[Score, ...], unit: str) -> list[Picture]:
    """Cells made from nothing: beside the typical unit, or the first that has any."""
    needed = ("made_place", "made_expression", "made_type", "true", "expression_true")
    units = [n.removeprefix("made_place/") for n in sorted(arrays) if n.startswith("made_place/")]
    units = [u for u in units if all(f"{key}/{u}" in arrays for key in needed)]
    if not units:
        return []
    beside = unit if unit in units else units[0]
    true = _paint(arrays, beside)
    type_M = arrays[f"made_type/{beside}"]
    made = None
    if true.legend and (type_M >= 0).any():
        names = [str(name) for name in arrays["cell_types"]]
        table = np.array([true.legend.get(name, OTHER) for name in names] + [UNKNOWN])
        made = Paint(table[type_M], "", true.legend)
    return [made_picture(arrays, scores, beside, true, made)]


def _paint(arrays: Mapping[str, np.ndarray], unit: str) -> Paint:
    """By cell type where any is known, else by true place."""
    names = [str(name) for name in arrays.get("cell_types", ())]
    true_NP = arrays[f"true/{unit}"]
    code_N = arrays.get(f"type/{unit}", np.full(len(true_NP), -1))
    count = np.bincount(code_N[code_N >= 0], minlength=len(names))
    if not count.any():
        axis_N = true_NP[:, np.argmax(np.ptp(true_NP, 0))].astype(float)
        says = "Colour is the true place along the longest axis, so a good placement shows the same gradient."
        return Paint((axis_N - axis_N.min()) / max(np.ptp(axis_N), 1e-12), says)
    ranked = [int(code) for code in np.argsort(-count, kind="stable") if count[code]]
    most, rest = ranked[: len(COLOURS)], ranked[len(COLOURS) :]
    table = np.array([OTHER] * len(names) + [UNKNOWN])
    table[most] = COLOURS[: len(most)]
    legend = {names[code]: COLOURS[i] for i, code in enumerate(most)}
    says = "Colour is the cell type."
    if rest:
        legend[names[rest[0]] if len(rest) == 1 else f"{len(rest)} other types"] = OTHER
        says = f"Colour is the cell type; types beyond the {len(most)} most frequent are grey."
    if (code_N < 0).any():
        legend["type unknown"] = UNKNOWN
    return Paint(table[code_N], says, legend)


def _genes(arrays: Mapping[str, np.ndarray], unit: str) -> Picture:
    names = [str(name) for name in arrays["genes"]]
    position, true, model = (
        arrays[f"{key}/{unit}"].astype(float) for key in ("true", "expression_true", "expression_model")
    )
    return Picture(
        name="genes",
        title=f"Expression over {unit}",
        caption=(
            "Each dot is a cell at its true place, coloured by the expression of one gene in model units: measured "
            "(top) and predicted by the model from place alone (bottom). The genes are, from left to right, the two it "
            "predicts best by r on the first test unit, the one in the middle, and the worst. Both "
            "rows share one colour scale, from the 2nd to the 98th percentile of the measured values, and values "
            "beyond take the end colours. r is Pearson's correlation over cells."
        ),
        draw=lambda: draw_genes(names, position, true, model),
    )


def _scores(task: str, scores: tuple[Score, ...]) -> Picture:
    chosen = [s for s in scores if s.task == task]
    ceiling = any(s.arm == CEILING for s in chosen)
    count = max((len(s.units) for s in chosen), default=0)
    return Picture(
        name="scores_" + task.replace(" ", "_"),
        title=f"Scores, {task}",
        caption=(
            "One panel a score, each on its own scale; the arrow says which way is better. Orange is the model, "
            "grey are simple baselines"
            + (", and blue with a line is the best that a simulator which knows its own truth allows" * ceiling)
            + (f"; small dots are the {count} test units, large ones their mean." if count > 1 else ".")
        ),
        draw=lambda: draw_scores(chosen),
    )
