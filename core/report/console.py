"""Score tables on the terminal."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from core.kinds import Evaluation, Score
from core.report.page import best_values, number

WIDTH = 150
"""columns where no terminal tells its own"""


def print_scores(evaluation: Evaluation) -> None:
    """One table a task: arms down, metrics across, the best of each column marked."""
    for task in dict.fromkeys(s.task for s in evaluation.scores):
        scores = [s for s in evaluation.scores if s.task == task]
        _print(task, scores, {(s.arm, s.metric): number(s.value) for s in scores})
    for note in evaluation.notes:
        print(note)


def print_seeds(evaluations: Sequence[Evaluation]) -> None:
    """Mean and standard deviation over seeds, in the form of `print_scores`."""
    for task in dict.fromkeys(s.task for s in evaluations[0].scores):
        scores = [s for s in evaluations[0].scores if s.task == task]
        values = {
            (s.arm, s.metric): [o.value for e in evaluations for o in e.scores if _key(o) == _key(s)] for s in scores
        }
        spread = {
            key: number(statistics.fmean(v)) + (f" ±{statistics.stdev(v):.3f}" if len(v) > 1 else "")
            for key, v in values.items()
        }
        _print(f"{task}, mean ± standard deviation over {len(evaluations)} seeds", scores, spread)


def _print(title: str, scores: list[Score], cells: dict[tuple[str, str], str]) -> None:
    """One table, or where its columns do not fit beside each other several, each with all arms."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDTH)
    best = best_values(scores)
    by_key = {(s.arm, s.metric): s.value for s in scores}
    arms = list(dict.fromkeys(s.arm for s in scores))
    heads = {s.metric: f"{s.metric} {'↑' if s.higher else '↓'}" for s in scores}
    for metrics in _fitting(heads, arms, cells, console.width):
        table = Table(title=title, title_justify="left", title_style="bold")
        table.add_column("")
        for name in metrics:
            table.add_column(heads[name], justify="right")
        for arm in arms:
            texts = {name: cells.get((arm, name), "") for name in metrics}
            row = [f"[bold]{t}[/bold]" if by_key.get((arm, name)) == best.get(name) else t for name, t in texts.items()]
            table.add_row(arm, *row)
        console.print(table)


def _fitting(heads: dict[str, str], arms: list[str], cells: dict[tuple[str, str], str], width: int) -> list[list[str]]:
    """Metrics in groups whose columns, each with its frame, fit beside those of the arms."""
    frame = 3
    used = room = max(map(len, arms)) + frame + 1
    groups: list[list[str]] = [[]]
    for name, head in heads.items():
        wide = max(len(head), *(len(cells.get((arm, name), "")) for arm in arms)) + frame
        if groups[-1] and used + wide > width:
            groups.append([])
            used = room
        groups[-1].append(name)
        used += wide
    return groups


def _key(score: Score) -> tuple[str, str, str]:
    return score.task, score.arm, score.metric
