"""The findings on the terminal."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from core.study.findings import Findings, SystemFound
from core.study.report.accounts import states
from core.study.report.sentences import sentences
from core.study.report.words import SCALES, SIGNS, chance, clean, gain, interval, short_names, smallest, verdict_word
from core.words import plural

WIDTH = 150
"""columns where no terminal tells its own"""


def show(findings: Findings) -> None:
    """One table a system with a line an arm, where the trials are, and the answer in sentences.

    Raises:
        ValueError: the accounting does not add up.
    """
    found = states(findings)
    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDTH)
    for system in findings.systems:
        console.print(_table(findings, system))
    counted = " + ".join(f"{n:,} {clean(key)}" for key, n in found.items() if n)
    console.print(Text(f"{plural(findings.counts['planned'], 'planned trial')} = {counted or '0'}"))
    for text in sentences(findings):
        console.print(Text(text))


def _note(system: SystemFound) -> Text | None:
    """On which scale each column is."""
    verdicts = [arm.verdict for arm in system.arms if arm.verdict is not None]
    if not any(verdict.p is not None for verdict in verdicts):
        return None
    shares = [v.detectable_relative is not None for v in verdicts if v.detectable is not None]
    units = ["in % of the baseline's mean"] * any(shares) + ["in the metric's own unit"] * (not all(shares))
    told = [f"finds: the smallest difference that the test would find, {', or without % '.join(units)}"] * bool(units)
    told += [SCALES] * any(gain(arm)[1] for arm in system.arms)
    return Text("; ".join(told)) if told else None


def _table(findings: Findings, system: SystemFound) -> Table:
    names = short_names(findings, system)
    title = f"{clean(system.system)}: {clean(system.label)} {'↑' if system.larger_is_better else '↓'}"
    table = Table(
        title=Text(title), title_justify="left", title_style="bold", caption=_note(system), caption_justify="left",
    )  # fmt: skip
    for heading in ("arm", "mean", "better by", "p (Holm)", "verdict", "finds", "seeds"):
        table.add_column(heading, justify="left" if heading in ("arm", "verdict") else "right")
    for arm in system.arms:
        word = verdict_word(arm)
        effect, relative = gain(arm)
        done = sum(o.value is not None for o in arm.outcomes)
        table.add_row(
            Text(names[arm.label] + (" (baseline)" if arm.baseline else "")),
            Text(interval(None if arm.stopped else arm.mean)),
            Text("" if effect is None else interval(effect, relative=relative, signed=True)),
            chance(arm.verdict.p_adjusted) if arm.verdict is not None else "",
            "" if arm.baseline else f"{SIGNS[word]} {word}",
            smallest(arm, bare=True),
            f"{done}/{len(arm.outcomes)}",
        )
    return table
