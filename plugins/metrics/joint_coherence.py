"""Whether expression and place of cells that were made belong together. M made, N real and n known cells."""

from __future__ import annotations

from typing import ClassVar, final

import numpy as np

from core.kinds.metric import Metric
from core.params import params
from plugins.metrics._arrays import blocks, required, spread
from plugins.metrics.distance_spearman import DistanceSpearman

MOST, KNOWN, NEAR = 2048, 8192, 15
"""cells of a set that are looked at, known cells that place them, and how many of these place each"""


@final
@params
class JointCoherence(Metric):
    """Whether made pairs of expression and place agree with each other as much as real pairs do.

    Cells that were made from nothing have no true partner, so that no comparison cell by cell can rise with the
    quality of a model. What can be asked is how far each set hangs together: every cell is placed at the mean place
    of the 15 known (training) cells nearest to it in expression, and coherence is the Spearman correlation of the
    distances between cells so placed and as they lie, by cell, median over cells. The score is 1 less the difference
    between the coherence of the made and of the real cells: more coherent than real is as wrong as less. Shuffling
    made expression over made places costs all of the real coherence.

    It says nothing where real cells have none, and nothing of whether all kinds of cells are made. Of larger sets
    2,048 evenly spread cells are taken, and 8,192 known ones.
    """

    of: ClassVar[str] = "joint"
    needs: ClassVar[tuple[str, ...]] = ("made_place", "place", "known", "known_place")
    higher: ClassVar[bool] = True
    best: ClassVar[float] = 1.0
    label: ClassVar[str] = "joint coherence (as real)"

    def score(
        self,
        predicted: np.ndarray,
        true: np.ndarray,
        made_place_MP: np.ndarray | None = None,
        place_NP: np.ndarray | None = None,
        known_nG: np.ndarray | None = None,
        known_place_nP: np.ndarray | None = None,
    ) -> float:
        """1 less the difference in coherence of made (M, G) and real (N, G) cells; -1 to 1.

        Raises:
            ValueError: one of the four is missing, or expression differs in genes.
        """
        known_nG, known_place_nP = required(known_nG, "known"), required(known_place_nP, "known_place")
        if not predicted.shape[1:] == true.shape[1:] == known_nG.shape[1:]:
            raise ValueError(
                f"made cells are {predicted.shape}, real {true.shape} and known {known_nG.shape}: they must share genes"
            )
        some_n = np.arange(min(KNOWN, len(known_nG))) * len(known_nG) // min(KNOWN, len(known_nG))
        known = known_nG[some_n].astype(np.float64), known_place_nP[some_n].astype(np.float64)
        made = coherence(predicted, required(made_place_MP, "made_place"), *known)
        return 1.0 - abs(made - coherence(true, required(place_NP, "place"), *known))


def coherence(
    expression_MG: np.ndarray, place_MP: np.ndarray, known_nG: np.ndarray, known_place_nP: np.ndarray
) -> float:
    """How well the places of cells follow from their expression, by known cells: 1 entirely, 0 not at all."""
    # By place alone: sets that differ in the order of expression only must not be judged by other cells.
    some_M = spread(MOST, place_MP.astype(np.float64), expression_MG[:, :1].astype(np.float64))
    expression_MG, place_MP = expression_MG[some_M].astype(np.float64), place_MP[some_M].astype(np.float64)
    largest = max(np.abs(known_nG).max(), np.abs(expression_MG).max())
    if largest > 0:
        known_nG, expression_MG = known_nG / largest, expression_MG / largest
    near = min(NEAR, len(known_nG))
    squares_n = np.square(known_nG).sum(1)
    told_MP = np.empty_like(place_MP)
    for part in blocks(len(place_MP), len(known_nG)):
        # Without the cell's own square, which does not change who is nearest.
        apart_Rn = squares_n - 2 * expression_MG[part] @ known_nG.T
        told_MP[part] = known_place_nP[np.argpartition(apart_Rn, near - 1, axis=1)[:, :near]].mean(1)
    return float(np.median(DistanceSpearman(rescale=False).by_cell(told_MP, place_MP)))
