"""Scores of single test units, and of groups of them, as tables of a report."""

from __future__ import annotations

import math
from collections.abc import Sequence

from core.kinds import Evaluation, Score
from core.report.page import Table, number
from core.score import CEILING, MODEL, is_model

MOST = 400
"""units that a page lists"""


def unit_tables(evaluation: Evaluation) -> list[Table]:
    """For each task with several units, or a unit of a named group, what the model reaches on each, worst first."""
    return [
        _units(task, own, evaluation.groups)
        for task, own in _own(evaluation).items()
        if len(_names(own)) > 1 or any(unit in evaluation.groups for unit in _names(own))
    ]


def group_tables(evaluation: Evaluation) -> list[Table]:
    """For each task whose units are of several groups the means of each, the best baseline's beside the model's."""
    tables = []
    for task, own in _own(evaluation).items():
        groups: dict[str, list[str]] = {}
        for unit in _names(own):
            if unit in evaluation.groups:
                groups.setdefault(evaluation.groups[unit], []).append(unit)
        if len(groups) > 1:
            scores = [s for s in evaluation.scores if s.task == task and s.units and s.arm != CEILING]
            tables.append(_groups(task, own, scores, groups))
    return tables


def _own(evaluation: Evaluation) -> dict[str, list[Score]]:
    """The model's scores that say how each unit does, by task."""
    found: dict[str, list[Score]] = {}
    for s in evaluation.scores:
        if s.arm == MODEL and s.units:
            found.setdefault(s.task, []).append(s)
    return found


def _names(own: Sequence[Score]) -> list[str]:
    return list(dict.fromkeys(unit for s in own for unit in s.units))


def _head(s: Score) -> str:
    return f"{s.label}\N{NO-BREAK SPACE}{'↑' if s.higher else '↓'}"


def _units(task: str, own: list[Score], groups: dict[str, str]) -> Table:
    first, names = own[0], _names(own)
    sign = 1 if first.higher else -1
    names.sort(key=lambda unit: (sign * first.units.get(unit, math.inf), unit))
    told = any(unit in groups for unit in names)
    rows = [
        (unit, *([groups.get(unit, "")] if told else []), *(number(s.units.get(unit, math.nan)) for s in own))
        for unit in names[:MOST]
    ]
    rest = f" The first {MOST} of {len(names)}; `units.parquet` has all." if len(names) > MOST else ""
    return Table(
        title=f"{task[:1].upper() + task[1:]}: the model on each of {len(names)} test unit{'s' * (len(names) != 1)}",
        header=("", *(["what it is"] if told else []), *map(_head, own)),
        rows=tuple(rows),
        note=f"Lowest {first.label} first.{rest}" if first.higher else f"Highest {first.label} first.{rest}",
        titled=False,
    )


def _groups(task: str, own: list[Score], scores: Sequence[Score], groups: dict[str, list[str]]) -> Table:
    """Rows by group: the model, and the baseline that is best by the first metric there."""
    first = own[0]
    by_arm: dict[str, dict[str, Score]] = {}
    for s in scores:
        by_arm.setdefault(s.arm, {})[s.metric] = s
    rows: list[tuple[str, ...]] = []
    shaded: list[int] = []
    for group, units in sorted(groups.items()):
        rivals = [arm for arm, of in by_arm.items() if not is_model(arm) and first.metric in of]
        best = sorted(rivals, key=lambda arm: _mean(by_arm[arm][first.metric], units) * (-1 if first.higher else 1))[:1]
        for arm in (MODEL, *best):
            values = [number(_mean(by_arm[arm].get(s.metric), units)) for s in own]
            shaded += [len(rows)] * (arm == MODEL)
            rows.append((f"{group} ({len(units)})" if arm == MODEL else "", arm, *values))
    return Table(
        title=f"{task[:1].upper() + task[1:]}, by what is tested",
        header=("", "", *map(_head, own)),
        rows=tuple(rows),
        note="Means over the units of each kind, their number in brackets; beside the model the baseline that is best "
        f"there by {first.label}.",
        own=frozenset(shaded),
    )


def _mean(score: Score | None, units: Sequence[str]) -> float:
    values = [score.units[unit] for unit in units if unit in score.units] if score is not None else []
    return sum(values) / len(values) if values else math.nan
