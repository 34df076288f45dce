"""What a report says, in order: the answer, what became of every trial, noise, scores, effects, figures, provenance."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import attrs

from core.study.findings import Audited, Findings, SystemFound
from core.study.report import judged, tables
from core.study.report.blocks import Block, Document, Folded, Items, Picture, Say, Section, Table
from core.study.report.costs import tradeoff
from core.study.report.factors import factorial
from core.study.report.lines import interactions, learning, needed, power, single
from core.study.report.rows import dots, forest
from core.study.report.sentences import sentences, unfinished
from core.study.report.words import clean, listed, percent
from core.study.stats.scores import FEWEST
from core.words import plural, spell

Draw = Callable[[Findings, SystemFound, str], Picture | None]
FIGURES: tuple[tuple[str, Draw], ...] = (
    ("seeds", dots), ("differences", forest), ("interaction", interactions), ("learning", learning), ("power", power),
    ("cost", tradeoff),
)  # fmt: skip


def document(findings: Findings) -> Document:
    """The report of a study.

    Raises:
        ValueError: the accounting does not add up.
    """
    accounts = judged.accounting(findings)
    several, middle = len(findings.systems) > 1, [tables.middle(findings)]
    sections = [
        Section(title="Verdicts", blocks=tuple(judged.boxes(findings, s) for s in findings.systems if len(s.arms) > 1)),
        Section(title="Trials", blocks=(*_few(findings), *_found(tables.fixed(findings)), *accounts)),
        Section(
            title="Noise", blocks=_found(*(judged.noise(findings, s) for s in findings.systems), *_powers(findings))
        ),
        Section(title="Scores", blocks=_found(*_scores(findings), *([] if several else middle))),
        Section(title="Factors", blocks=tuple(b for s in findings.systems for b in factorial(s))),
        Section(title="Figures", blocks=tuple(_figures(findings))),
        Section(title="All systems", blocks=_found(*tables.over_systems(findings), *(middle if several else []))),
        Section(title="Exploratory", blocks=_found(*map(tables.secondary, findings.systems))),
        Section(title="Deviations", blocks=_found(tables.idle(findings), *_deviations(findings))),
        Section(title="Provenance", blocks=tuple(_provenance(findings))),
    ]
    return Document(
        title=clean(findings.title) or "An untitled study",
        subtitle=_subtitle(findings),
        missing=() if findings.complete else tuple(unfinished(findings)),
        answer=tuple(text for text in sentences(findings) if not text.startswith("This study is not finished")),
        sections=tuple(s for s in sections if s.blocks),
    )


def _found(*blocks: Block | None) -> tuple[Block, ...]:
    return tuple(b for b in blocks if b is not None)


def _subtitle(findings: Findings) -> str:
    axes = [f"{clean(axis)}: {listed([clean(v) for v in found], 12)}" for axis, found in sorted(findings.axes.items())]
    blocks = f" in {plural(len(findings.blocks), 'block')}" if len(findings.blocks) > 1 else ""
    parts = [
        "; ".join(axes),
        plural(len(findings.seeds), "seed") + blocks,
        f"plan {clean(findings.plan)[:16]}",
    ]  # fmt: skip
    notes = [
        plural(len(found), word)
        for found, word in ((findings.warnings, "warning"), (findings.deviations, "deviation"))
        if found
    ]
    if notes:
        parts.append(f"{listed(notes)}, told below")
    return ". ".join(filter(None, parts)) + "."


def _few(findings: Findings) -> list[Block]:
    """Why a study without tests has none."""
    if not any(o.value is not None for s in findings.systems for a in s.arms for o in a.outcomes):
        return [Say(text="No trial has given a result, so there are no scores, no tests and no figures of them.")]
    if len(findings.seeds) * max(1, len(findings.blocks)) < FEWEST:
        return [
            Say(
                text=f"With {plural(len(findings.seeds), 'seed')} nothing is tested: chance between seeds cannot be "
                f"told from a difference between arms. A test needs {FEWEST} or more; what follows shows the "
                "runs as they are."
            )
        ]
    return []


def _powers(findings: Findings) -> list[Block]:
    return [Say(text=f"{clean(s.system)}: {needed(findings, s)}") for s in findings.systems if s.power]


def _scores(findings: Findings) -> list[Table | None]:
    found: list[Table | None] = []
    for system in findings.systems:
        if system.arms:
            found += [tables.primary(findings, system), tables.units(findings, system)]
    return found


def _figures(findings: Findings) -> list[Block]:
    drawn: list[Block] = []
    for i, system in enumerate(findings.systems):
        if i and drawn:
            drawn.append(Say(text=f"The same for {clean(system.system)}:", soft=True))
        for kind, draw in FIGURES:
            picture = draw(findings, system, f"{kind}-{i}")
            if picture is not None:
                several = f", {clean(system.system)}" if len(findings.systems) > 1 else ""
                drawn.append(attrs.evolve(picture, title=picture.title + several))
        if once := single(findings, system):
            drawn.append(Say(text=once, soft=True))
    return drawn


def _deviations(findings: Findings) -> list[Block]:
    told = tuple(f"{clean(d.kind)}: {clean(d.text)}" for d in findings.deviations)
    warned = tuple(map(clean, findings.warnings))
    blocks: list[Block] = [
        Items(title="Not as planned", items=told) if told else Say(text="Everything was done as planned.", soft=True)
    ]
    return blocks + ([Items(title="Warnings", items=warned)] if warned else [])


def _provenance(findings: Findings) -> list[Block]:
    blocks: list[Block] = [
        Say(
            text=f"Plan {clean(findings.plan)}. Baseline: "
            + ", ".join(f"{clean(k)}={clean(v)}" for k, v in sorted(findings.baseline.items()))
            + f". Seeds: {listed([str(s) for s in findings.seeds], 20)}. Error rate of all verdicts together: "
            f"{findings.alpha:g}; wanted: differences of {percent(findings.mde)} of the baseline's mean; margin of "
            f"equivalence: {percent(findings.margin)}."
        )
    ]  # fmt: skip
    for system in findings.systems:
        told = _flat(system.data)
        blocks.append(Items(title=f"Data of {clean(system.system)}", items=tuple(told)))
    if findings.audited is not None:
        blocks.append(Say(text=_audited(findings.audited)))
    for title, counted in (("Code", findings.code), ("Environments", findings.environments)):
        if counted:
            blocks.append(
                Items(title=title, items=tuple(f"{clean(k)}: {plural(n, 'trial')}" for k, n in sorted(counted.items())))
            )
    lines = [f"{clean(key)} = {clean(value)}    # {clean(origin)}" for key, value, origin in findings.settings]
    if lines:
        blocks.append(Folded(title="Settings and where each came from", entries=(("", "\n".join(lines)),)))
    commands = tuple(
        (f"{clean(s.system)}, {clean(a.label)}, seed {o.seed}{' in ' + clean(o.block) if o.block else ''}: {o.state}"
         f"{', ' + clean(o.message) if o.message else ''}", clean(o.command))
        for s in findings.systems for a in s.arms for o in a.outcomes if o.command
    )  # fmt: skip
    if commands:
        blocks.append(Folded(title=f"The command of each trial ({len(commands):,})", entries=commands))
    return blocks


def _audited(audited: Audited) -> str:
    """`2 trials were repeated from nothing: all the same`."""
    was = "was" if audited.trials == 1 else "were"
    more = audited.repetitions - audited.trials
    often = f", {plural(audited.repetitions, 'time')} in all," if more else ""
    head = f"{plural(audited.trials, 'trial')} {was} repeated from nothing{often}"
    if audited.other:
        return f"{head.rstrip(',')}: {audited.other} gave other numbers, {audited.trials - audited.other} the same."
    return f"{head.rstrip(',')}: {'the same to the last digit' if audited.trials == 1 else 'all the same'}."


def _flat(data: Any, stem: str = "") -> list[str]:
    lines = []
    for key, value in sorted(data.items(), key=lambda item: str(item[0])):
        if isinstance(value, Mapping):
            lines += _flat(value, f"{stem}{clean(str(key))}, ")
        else:
            lines.append(f"{stem}{clean(str(key))}: {clean(spell(value))}")
    return lines
