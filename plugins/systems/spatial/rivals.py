"""Whether a simple rule is as good as the model, in one sentence a task."""

from __future__ import annotations

import re
from collections.abc import Sequence

from core.kinds import Score
from core.report.page import number
from core.score import MODEL

RULES = ("nearest", "ridge")
"""what the names of baselines that learn from the training cells begin with"""
SHOWN = 8
"""sections whose numbers are listed"""


def say_rivals(scores: Sequence[Score]) -> list[str]:
    """For each task: the best kNN or ridge against the model on the task's first metric, with numbers by section.

    Numbers that print alike count as equal. It is a statement on these sections and this seed; whether a difference is
    more than chance takes several runs (`core ablate`).
    """
    sentences = []
    for task in dict.fromkeys(s.task for s in scores):
        first = next((s.metric for s in scores if s.task == task and s.arm.startswith(RULES)), None)
        here = [s for s in scores if s.task == task and s.metric == first]
        own = next((s for s in here if s.arm == MODEL), None)
        rules = [s for s in here if s.arm.startswith(RULES)]
        if own is not None and rules:
            sentences.append(_sentence(task, own, max(rules, key=lambda s: s.value if s.higher else -s.value)))
    return sentences


def _sentence(task: str, own: Score, rule: Score) -> str:
    ahead = not _beats(own.value, rule.value, own.higher)
    sections = [f"{unit} {number(rule.units[unit])} against {number(own.units[unit])}" for unit in own.units]
    listed = "; ".join(sections[:SHOWN]) + (f"; and {len(sections) - SHOWN} more" if len(sections) > SHOWN else "")
    wins = sum(_beats(rule.units[unit], own.units[unit], own.higher) for unit in own.units)
    label = re.sub(r"\s*\([^)]*\)", "", own.label)
    said = "A simple rule is as good as the model" if ahead else "No kNN and no ridge is as good as the model"
    best = f"'{rule.arm}' reaches {number(rule.value)} on {label} and the model {number(own.value)}"
    paired = f", better in {wins} of {len(sections)} sections ({listed})" if len(sections) > 1 else ""
    return f"{said} on '{task}': {best}{paired}."


def _beats(one: float, other: float, higher: bool) -> bool:
    return number(one) != number(other) and (one > other) == higher
