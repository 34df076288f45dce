"""Predicted against real cells of two files, stratum by stratum."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, final

import attrs
import numpy as np

from core.errors import UserError
from core.kinds.comparison import Truth
from core.kinds.metric import GroupMetric, key
from plugins.shared.condition import CONTROL
from plugins.systems.perturb.baselines import Train
from plugins.systems.perturb.files import Keys, check_control, common_genes, read_pair
from plugins.systems.perturb.judge import Judged
from plugins.systems.perturb.standing import matched, stand

if TYPE_CHECKING:
    from plugins.systems.perturb.commands import Asked

FEW = 2
"""cells below which a condition has no spread"""
NAMED = 5


@final
@attrs.frozen(kw_only=True)
class Compared:
    """What two files say of each other."""

    strata: dict[str, Judged]
    conditions: dict[str, int]
    """stratum -> how many conditions are judged"""
    genes: int
    notes: tuple[str, ...]
    warnings: tuple[str, ...]

    def by_condition(self) -> Iterator[tuple[str, str, str, str, float]]:
        """Stratum, condition, metric, arm and value of every score that a condition has."""
        for stratum, judged in self.strata.items():
            for result in judged.results:
                for condition, value in result.graded.groups.items():
                    yield stratum, condition, key(result.metric), result.arm, value

    def document(self) -> dict[str, Any]:
        """Everything as plain values."""
        return {
            "genes": self.genes,
            "notes": list(self.notes),
            "warnings": list(self.warnings),
            "strata": [
                {
                    "stratum": stratum,
                    "conditions": self.conditions[stratum],
                    "baseline": judged.baseline,
                    "ceiling": dict(judged.ceiling),
                    "scores": [
                        {
                            "arm": r.arm,
                            "metric": key(r.metric),
                            "value": r.graded.value,
                            "low": r.low,
                            "high": r.high,
                            "calibrated": r.calibrated,
                            "higher": r.metric.higher,
                            "best": r.metric.best,
                            "by_condition": dict(r.graded.groups),
                        }
                        for r in judged.results
                    ],
                }
                for stratum, judged in self.strata.items()
            ],
        }


def compare_files(
    predicted: str, real: str, metrics: Sequence[GroupMetric], asked: Asked, tell: Callable[[str], None]
) -> Compared:
    """Judge one file by another.

    Raises:
        UserError: files that cannot be read, or that have nothing in common.
    """
    keys = Keys(condition=asked.condition, control=asked.control, stratum=asked.stratum, total=asked.total)
    mine, true, notes = read_pair(predicted, real, keys, asked.layer, asked.real_layer)
    check_control(true)
    mine_genes, true_genes, said = common_genes(mine, true)
    notes += said
    if CONTROL in mine.conditions:
        notes.append("Controls of the predicted file are not read: both sides are measured from the real ones.")
    strata, counted, warned = {}, {}, []
    for stratum in sorted({*true.strata} & {*mine.strata}):
        groups, truth_groups = mine.groups(stratum, mine_genes), true.groups(stratum, true_genes)
        groups.pop(CONTROL, None)
        where = f" of {stratum}" if stratum else ""
        controls = truth_groups.pop(CONTROL, None)
        shared = sorted(groups.keys() & truth_groups.keys())
        if controls is None or not shared:
            notes.append(f"{stratum} is left out: {'no real controls' if controls is None else 'no common condition'}.")
            continue
        notes += _lone(groups, truth_groups, shared, where)
        tell(f"judging {len(shared)} conditions{where}, {len(true_genes)} genes")
        rng = np.random.default_rng(asked.seed)
        if asked.counts == "match":
            groups = matched(groups, {n: truth_groups[n] for n in shared}, rng)
        seen = {name: table for name, table in truth_groups.items() if name not in shared}
        truth = Truth(
            groups={name: truth_groups[name] for name in shared},
            reference=controls,
            features=tuple(true.genes[i] for i in true_genes),
            known={name: table.mean(0, dtype=np.float64) for name, table in seen.items()},
        )
        counts = {name: len(table) for name, table in seen.items()}
        train = Train(genes=truth.features, means=truth.known, counts=counts, controls={"": controls})
        if asked.baselines and not seen:
            notes.append(f"All real conditions{where} are predicted: no baseline could learn, only controls stand.")
        own = {name: groups[name] for name in shared}
        found = stand(truth, own, train if asked.baselines else None, metrics, rng, ceiling=asked.ceiling)
        strata[stratum] = found.judged
        counted[stratum] = len(shared)
        notes += found.notes
        warned += [f"{stratum}: {text}" if stratum else text for text in found.warnings]
    if not strata:
        apart = f" in one stratum of obs[{asked.stratum!r}]" if asked.stratum else ""
        raise UserError(
            f"{predicted} and {real} share no perturbed condition{apart}: {_some(sorted({*mine.conditions}))} are "
            f"predicted, {_some(sorted({*true.conditions} - {CONTROL}))} are real"
        )
    return Compared(
        strata=strata,
        conditions=counted,
        genes=len(true_genes),
        notes=tuple(dict.fromkeys(notes)),
        warnings=tuple(warned),
    )


def _lone(groups: dict, truth: dict, shared: list[str], where: str) -> list[str]:
    """What stands in one of the files only, and conditions of too few cells."""
    said = []
    made_up = sorted(groups.keys() - truth.keys())
    if made_up:
        said.append(f"Not judged, as there are no real cells{where} of it: {_some(made_up)}.")
    unseen = sorted(truth.keys() - groups.keys())
    if unseen:
        said.append(
            f"{len(unseen)} real conditions{where} are not predicted ({_some(unseen)}): they count as training data "
            "of the perturbed mean and of the baselines."
        )
    few = [name for name in shared if min(len(groups[name]), len(truth[name])) < FEW]
    if few:
        said.append(f"One cell only{where}: {_some(few)}; it has no spread, and tests find nothing in it.")
    return said


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more
