"""Comparisons on the terminal."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from core.kinds.metric import key
from core.score import CEILING, MODEL
from plugins.systems.perturb.compare import Compared
from plugins.systems.perturb.judge import Judged, Result

WIDTH = 150
"""columns where no terminal tells its own"""


def print_compared(compared: Compared) -> None:
    """A table a stratum, then warnings and notes."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDTH)
    for stratum, judged in compared.strata.items():
        where = f", {stratum}" if stratum else ""
        console.print(_table(f"{compared.conditions[stratum]} conditions, {compared.genes} genes{where}", judged))
    for warning in compared.warnings:
        print(f"warning: {warning}")
    for note in compared.notes:
        print(note)
    print("Intervals are over conditions, which are drawn anew with replacement.")
    zeros = {judged.baseline for judged in compared.strata.values() if judged.baseline and judged.ceiling}
    if zeros:
        print(
            f"Calibrated: 0 is the {' or '.join(sorted(zeros))}, 1 the ceiling, halves of the real cells against each "
            "other; empty where the ceiling is no better "
            "than the baseline within its interval."
        )


def _table(title: str, judged: Judged) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column("")
    for head in ("predicted", "95 % interval", "calibrated", CEILING, judged.baseline or ""):
        if head:
            table.add_column(head, justify="right")
    table.add_column("best simple prediction")
    for column in dict.fromkeys(key(r.metric) for r in judged.results):
        results = {r.arm: r for r in judged.results if key(r.metric) == column}
        own = results.pop(MODEL)
        judging = own.metric.best is not None
        cells = [
            column + ((" ↑" if own.metric.higher else " ↓") if judging else ""),
            number(own.graded.value),
            f"{number(own.low)} to {number(own.high)}",
            "" if own.calibrated is None else f"{own.calibrated:.2f}",
            number(judged.ceiling[column]) if judging and column in judged.ceiling else "",
        ]
        if judged.baseline:
            cells.append(number(results[judged.baseline].graded.value))
        best = _best(results) if judging else None
        table.add_row(*cells, f"{number(best.graded.value)} {best.arm}" if best else "")
    return table


def _best(results: dict[str, Result]) -> Result | None:
    """The best of the arms that learn no network."""
    sign = {r.arm: r.graded.value if r.metric.higher else -r.graded.value for r in results.values()}
    return max(results.values(), key=lambda r: sign[r.arm], default=None)


def number(value: float) -> str:
    """Three digits that say something."""
    if abs(value) >= 100:
        return f"{value:.1f}"
    return f"{value:.3f}" if abs(value) >= 0.01 or value == 0 else f"{value:.2e}"
