"""Scores of the spatial system and of its baselines, unit by unit.

N cells, G genes, P axes of space.
"""

from __future__ import annotations

import numpy as np
import torch

from core.kinds import Batch, Evaluation, Metric, Score, Source, Tally
from core.kinds.metric import key, title
from core.score import CEILING, MODEL
from plugins.systems.spatial import baselines
from plugins.systems.spatial.extra import JOINT, Extra
from plugins.systems.spatial.fields import MODALITIES
from plugins.systems.spatial.made import types_of
from plugins.systems.spatial.rivals import say_rivals
from plugins.systems.spatial.watch import Watch

SAMPLE = f"{MODEL}, one sample"
TASKS = {"position": "expression to position", "expression": "position to expression", JOINT: "joint generation"}
ERRORS = (MODEL, "nearest 15 cells")
"""arms whose error in expression is kept cell by cell"""
FEWEST = 10
"""cells that a section needs to be scored: ranks and neighbours of fewer say nothing, of two they are always right"""

Arms = dict[str, np.ndarray]
"""predictions (N, ...) of one modality, by arm"""


class Judge:
    """Collects predictions unit by unit and turns them into scores, notes and the arrays of figures."""

    def __init__(self, metrics: tuple[Metric, ...]) -> None:
        self.metrics = metrics
        self.tallies: dict[tuple[str, str], list[Tally]] = {}
        self.arrays: dict[str, np.ndarray] = {}
        self.notes: list[str] = []
        self.ceiling = False

    def choose(self, cells: dict[str, int]) -> list[str]:
        """The units to score, of those that hold so many cells each; a note tells which small ones are left out.

        Where all are small, all are scored, and the note warns.
        """
        small = [name for name, count in cells.items() if count < FEWEST]
        told = ", ".join(f"{name} ({cells[name]})" for name in small)
        if len(small) == len(cells):
            self.notes.append(
                f"Every section to be scored has fewer than {FEWEST} cells, so scores say little: {told}."
            )
            return small
        if small:
            self.notes.append(f"Not scored, as they hold fewer than {FEWEST} cells: {told}.")
        return [name for name in cells if name not in small]

    def add(
        self,
        unit: Batch,
        arms: dict[str, Arms],
        known: Arms,
        source: Source,
        generator: torch.Generator,
        extra: Extra,
    ) -> None:
        """Score one unit.

        Args:
            unit: the truth, one set.
            arms: the model's predictions by modality and arm; only these modalities are scored.
            known: all training cells by modality, what the baselines learn from, and their types by `cell_type`.
            source: asked for the best that could be done.
            generator: noise of the random baselines.
            extra: samples that some metrics need.
        """
        name, true = unit.units[0], cells_of(unit)
        rng = np.random.default_rng(int(torch.randint(2**62, (), generator=generator)))
        if "position" in arms:
            arms["position"] |= baselines.place(known["expression"], known["position"], true["expression"], rng)
        if "expression" in arms:
            arms["expression"] |= baselines.impute(known["expression"], known["position"], true["position"], rng)
        for modality, values in source.oracle(unit).items():
            if modality in arms:
                arms[modality][CEILING] = values
                self.ceiling = True
        for modality, by_arm in arms.items():
            for arm, values in by_arm.items():
                fresh = [Tally(metric) for metric in self.metrics if metric.of == modality]
                for tally in self.tallies.setdefault((modality, arm), fresh):
                    tally.update(name, values, true[modality], extra.beside(modality, arm, unit, true))
        for arm, made in extra.made(known, rng).items():
            fresh = [Tally(metric) for metric in self.metrics if metric.of == JOINT]
            beside = {"made_place": made["position"], "place": true["position"]}
            beside |= {"known": known["expression"][::2], "known_place": known["position"][::2]}
            for tally in self.tallies.setdefault((JOINT, arm), fresh):
                tally.update(name, made["expression"], true["expression"], beside)
        self._keep(name, unit, true, arms, source)
        if extra.joint and "genes" in self.arrays:
            self._keep_made(name, extra.joint, known, source)

    def watched(self, unit: Batch, watch: Watch) -> None:
        """Keep what was seen while the positions of a unit were sampled."""
        type_N = types_in(unit)
        self.arrays[f"way/{unit.units[0]}"] = watch.way()
        self.arrays |= {f"experts/{unit.units[0]}/{name}": share for name, share in watch.experts(type_N).items()}

    def evaluation(self, mean: str = "the mean that the network predicts from noise alone") -> Evaluation:
        """Everything that was scored; `mean` says what the arm of the model is."""
        scores = tuple(
            Score(
                task=TASKS[modality],
                arm=arm,
                metric=key(tally.metric),
                value=tally.value(),
                higher=tally.metric.higher,
                label=title(tally.metric),
                units=tally.scores,
            )
            for modality in TASKS
            for (m, arm), tallies in self.tallies.items()
            if m == modality
            for tally in tallies
            if tally.scores
        )
        notes = [
            *say_rivals(scores),
            *self.notes,
            f"'{MODEL}' is {mean}; '{SAMPLE}' is one draw by the solver, "
            "as varied as real cells and therefore further from each of them.",
        ]
        if self.ceiling:
            notes.append(
                f"'{CEILING}' is the mean that the simulator itself, which knows its truth, would predict: the least "
                "squared error possible. On scores that are no squared error something may come out above it."
            )
        return Evaluation(scores=scores, notes=tuple(notes), arrays=self.arrays)

    def _keep(self, name: str, unit: Batch, true: Arms, arms: dict[str, Arms], source: Source) -> None:
        """The arrays that the figures of a unit need; the genes shown are the model's best, middle and worst."""
        self.arrays[f"true/{name}"] = true["position"]
        self.arrays[f"type/{name}"] = types_in(unit)
        self.arrays |= {f"placed/{arm}/{name}": values for arm, values in arms.get("position", {}).items()}
        if "cell_types" not in self.arrays:
            self.arrays["cell_types"] = np.array(source.names("cell_types"), dtype=str)
        if "expression" not in arms:
            return
        if "genes" not in self.arrays:
            order = np.argsort(-_correlation(arms["expression"][MODEL], true["expression"]))
            self.arrays["genes"] = np.array(source.names("genes"))[order[_picked(len(order))]]
        shown = self._shown(source)
        self.arrays[f"expression_true/{name}"] = true["expression"][:, shown]
        self.arrays[f"expression_model/{name}"] = arms["expression"][MODEL][:, shown]
        for arm in ERRORS:
            error_N = np.square(arms["expression"][arm] - true["expression"]).mean(1)
            self.arrays[f"expression_error/{arm}/{name}"] = error_N

    def _keep_made(self, name: str, joint: Arms, known: Arms, source: Source) -> None:
        """The arrays of the figure of made cells."""
        self.arrays[f"made_place/{name}"] = joint["position"]
        self.arrays[f"made_expression/{name}"] = joint["expression"][:, self._shown(source)]
        self.arrays[f"made_type/{name}"] = types_of(joint["expression"], known["expression"], known["cell_type"])

    def _shown(self, source: Source) -> list[int]:
        names = np.array(source.names("genes"))
        return [int(np.flatnonzero(names == gene)[0]) for gene in self.arrays["genes"]]


def types_in(batch: Batch) -> np.ndarray:
    """The codes (N,) of the types of the real cells of a batch of one set."""
    return batch.fields["cell_type"][0][batch.real_BN[0]].cpu().numpy()


def cells_of(batch: Batch) -> Arms:
    """The real cells of a batch of one set, by modality."""
    return {m: batch.fields[m][0][batch.real_BN[0]].cpu().numpy() for m in MODALITIES}


def _picked(genes: int) -> list[int]:
    """Ranks of the genes that are shown: the two best, the middle one and the worst, or all of fewer."""
    return sorted({0, min(1, genes - 1), genes // 2, genes - 1})


def _correlation(a_NG: np.ndarray, b_NG: np.ndarray) -> np.ndarray:
    """Pearson correlation of each column; 0 where one of the two is constant."""
    a, b = a_NG - a_NG.mean(0), b_NG - b_NG.mean(0)
    scale = np.sqrt((a**2).sum(0) * (b**2).sum(0))
    return np.divide((a * b).sum(0), scale, out=np.zeros(a.shape[1], a.dtype), where=scale > 1e-12)
