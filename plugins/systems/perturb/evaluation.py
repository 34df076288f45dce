"""Predicted cells beside the real ones of held-out conditions, and beside every baseline's. n cells, G genes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, final

import attrs
import numpy as np

from core.kinds import Evaluation, Score, Source
from core.kinds.comparison import Truth
from core.score import MODEL
from core.train.streams import Streams
from plugins.shared.condition import apart
from plugins.systems.perturb.baselines import Baseline, Train, fit
from plugins.systems.perturb.cells import Cells, Given
from plugins.systems.perturb.judge import Judged
from plugins.systems.perturb.network import Responder, Spent
from plugins.systems.perturb.standing import stand

if TYPE_CHECKING:
    from plugins.systems.perturb.system import Perturb

TASK = "response"
SHOWN = 6
"""conditions whose effects and cells are kept for figures"""
RIVALS = ("perturbed mean", "additive", "ridge")
"""baselines that notes and figures name, best known first"""
CELLS = 60
"""cells of a condition that figures show"""


@final
@attrs.frozen(kw_only=True)
class Unit:
    """A condition's cells."""

    name: str
    stratum: str
    expression: np.ndarray
    given: Given


def evaluated(system: Perturb, model: Responder, source: Source, split: str, streams: Streams) -> Evaluation:
    """As `core.kinds.System.evaluate`: one task, judged stratum by stratum where there are several."""
    genes = source.names("genes")
    train = train_of(source, streams)
    baselines = fit(train)
    strata: dict[str, list[Unit]] = {}
    for unit in units(source, split, streams):
        if apart(unit.name)[0]:
            strata.setdefault(unit.stratum, []).append(unit)
    model.spent = Spent()
    judged: dict[str, Judged] = {}
    notes: list[str] = []
    arrays: dict[str, np.ndarray] = {"genes": np.array(genes)}
    for number, (stratum, wanted) in enumerate(sorted(strata.items())):
        rng = np.random.default_rng(streams.generator("eval", number).initial_seed())
        made = {
            one.name: system.cells(model, one.given, streams.generator(f"eval:{one.name}"), streams)["expression"]
            for one in wanted
        }
        truth = Truth(
            groups={one.name: one.expression for one in wanted},
            reference=train.controls[stratum],
            features=genes,
            known={name: mean for name, mean in train.means.items() if apart(name)[1] == stratum},
            own={one.name: one.name.partition("|")[0] for one in wanted},
        )
        standing = stand(truth, made, train, system.metrics, rng)
        judged[stratum] = standing.judged
        notes += [*standing.notes, *standing.warnings]
        arrays |= _shown(truth, made, baselines, stratum)
    scores = _scores(judged)
    notes.append(f"A cell costs {model.spent.each:.4g} evaluations of the field.")
    return Evaluation(
        scores=scores,
        notes=tuple(dict.fromkeys(notes)),
        arrays=arrays,
        groups=dict(source.describe().facts.get("categories", {})),
    )


def units(source: Source, split: str, streams: Streams) -> Iterator[Unit]:
    """Conditions of a split, whole."""
    for unit in source.split(split, streams).units():
        cells = Cells.of(unit)
        yield Unit(
            name=unit.units[0],
            stratum=apart(unit.units[0])[1],
            expression=cells.expression.numpy(),
            given=cells.given,
        )


def train_of(source: Source, streams: Streams) -> Train:
    """Means of training conditions and all training controls."""
    means, counts, controls = {}, {}, {}
    for unit in units(source, "train", streams):
        if apart(unit.name)[0]:
            means[unit.name] = unit.expression.mean(0, dtype=np.float64)
            counts[unit.name] = len(unit.expression)
        else:
            controls[unit.stratum] = unit.expression
    return Train(genes=source.names("genes"), means=means, counts=counts, controls=controls)


def _scores(judged: Mapping[str, Judged]) -> tuple[Score, ...]:
    """One table; of several strata the mean, each stratum counted once, and a table for each behind it."""
    tables = {stratum: one.scores(TASK) for stratum, one in judged.items()}
    if len(tables) == 1:
        return next(iter(tables.values()))
    places: dict[tuple[str, str], list[Score]] = {}
    for table in tables.values():
        for score in table:
            places.setdefault((score.arm, score.metric), []).append(score)
    whole = [
        attrs.evolve(
            scores[0],
            value=float(np.mean([s.value for s in scores])),
            units={name: value for s in scores for name, value in s.units.items()},
        )
        for scores in places.values()
        if len(scores) == len(tables)
    ]
    apart = [attrs.evolve(s, task=f"{TASK} of {stratum}") for stratum, table in tables.items() for s in table]
    return (*whole, *apart)


def _shown(
    truth: Truth, made: Mapping[str, np.ndarray], baselines: Sequence[Baseline], stratum: str
) -> dict[str, np.ndarray]:
    """Effects and cells of the conditions with the strongest real effects, for figures."""
    base_G = truth.reference.mean(0, dtype=np.float64)
    effect = {name: table.mean(0, dtype=np.float64) - base_G for name, table in truth.groups.items()}
    strongest = sorted(effect, key=lambda name: -float(np.linalg.norm(effect[name])))[:SHOWN]
    arrays: dict[str, np.ndarray] = {}
    for name in strongest:
        arrays[f"effect/{name}/true"] = effect[name].astype(np.float32)
        arrays[f"effect/{name}/{MODEL}"] = (made[name].mean(0, dtype=np.float64) - base_G).astype(np.float32)
        arrays[f"cells/{name}/true"] = truth.groups[name][:CELLS]
        arrays[f"cells/{name}/{MODEL}"] = made[name][:CELLS]
        for one in baselines:
            if one.name in RIVALS:
                arrays[f"effect/{name}/{one.name}"] = (one.mean(name) - base_G).astype(np.float32)
    arrays[f"controls/{stratum}"] = truth.reference[: 3 * CELLS]
    return arrays
