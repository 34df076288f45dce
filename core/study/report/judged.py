"""Verdicts, and what stands behind them: where every trial is, and how loud the noise is."""

from __future__ import annotations

from core.study.findings import ArmFound, Findings, SystemFound
from core.study.report.accounts import CELLS, MEANING, missing, states
from core.study.report.blocks import Box, Boxes, Cell, Table
from core.study.report.tables import counted, estimated, plain
from core.study.report.words import (
    DASH,
    STOPPED,
    capital,
    clean,
    gain,
    interval,
    number,
    p_is,
    short_names,
    smallest,
    verdict_word,
    why_stopped,
)
from core.study.stats.verdict import BETTER, EQUIVALENT, INCONCLUSIVE, NOT_TESTED, WORSE
from core.words import plural

ORDER = (BETTER, WORSE, EQUIVALENT, INCONCLUSIVE, NOT_TESTED, STOPPED)


def boxes(findings: Findings, system: SystemFound) -> Boxes:
    """One verdict a contrast, what is certain first."""
    names = short_names(findings, system)
    arms = sorted((a for a in system.arms if not a.baseline), key=lambda a: ORDER.index(verdict_word(a)))
    made = [_box(findings, a, names[a.label]) for a in arms]
    base = next((names[a.label] for a in system.arms if a.baseline), "the baseline")
    return Boxes(title=f"{clean(system.system)}: against {base}", boxes=tuple(made))


def _box(findings: Findings, arm: ArmFound, name: str) -> Box:
    word = verdict_word(arm)
    if word == STOPPED:
        why = capital(why_stopped(arm).lstrip(" :"))
        return Box(name=name, word=word, size="", why=why, facts="counts in the family, in no mean")
    effect, relative = gain(arm)
    contrast, verdict = arm.contrast, arm.verdict
    if contrast is None or verdict is None:
        return Box(name=name, word=word, size="", why="no seed has both scores", facts="")
    unit = "pair" if len(findings.blocks) > 1 else "seed"
    facts = [] if word == NOT_TESTED else [plural(contrast.n, unit)]
    least = smallest(arm)
    why = clean(verdict.why)
    if word == INCONCLUSIVE and least:
        if verdict.p_adjusted is not None:
            facts.append(
                f"{p_is(verdict.p_adjusted)} after Holm's correction for {plural(verdict.family_size, 'contrast')}"
            )
        if arm.inside_noise:
            facts.append("inside the noise floor")
        why = f"smallest detectable difference: {least}"
    if word in (BETTER, WORSE) and verdict.exact_possible is False:
        facts.append("too few for a test that does not assume a normal distribution")
    size = "" if effect is None else interval(effect, relative=relative, signed=True)
    return Box(name=name, word=word, size=size, why=why, facts="; ".join(facts))


def accounting(findings: Findings) -> list[Table]:
    """States that sum to the planned trials, and which seeds gave nothing.

    Raises:
        ValueError: they do not add up.
    """
    found = states(findings)
    rows = [(Cell(clean(key)), counted(n), Cell(MEANING.get(key, ""))) for key, n in found.items()]
    rows.append((Cell("planned"), counted(findings.counts["planned"]), Cell("the sum of all above")))
    told = [f"{plural(findings.counts[key], 'cell')} {key}" for key in CELLS if findings.counts.get(key)]
    note = f"Beside these, {' and '.join(told)}, with reasons below." if told else ""
    tables = [
        Table(
            title="Where every planned trial is", header=("state", "trials", "meaning"), rows=tuple(rows), note=note,
            own=frozenset({len(rows) - 1}),
        )
    ]  # fmt: skip
    if absent := missing(findings):
        tables.append(
            Table(
                title="Trials without a result",
                header=("arm", "system", "which", "why"),
                rows=tuple(
                    tuple(Cell(clean(t)) for t in (arm, system, seeds, why)) for system, arm, seeds, why in absent
                ),
                note="A contrast uses only seeds that both arms have.",
            )
        )
    return tables


def noise(findings: Findings, system: SystemFound) -> Table | None:
    """How far the baseline falls from itself, then how much sharing seeds helped each contrast."""
    names, rows = short_names(findings, system), []
    floor = system.noise
    if floor is not None:
        size = "" if floor.floor is None else f"floor ±{number(floor.floor)}; "
        rows.append((
            Cell("baseline against itself (A/A)"), Cell(f"{floor.n_first} and {floor.n_second}"),
            estimated(floor.difference), Cell(DASH), Cell(DASH), Cell(f"{size}{_p(floor.p)}"),
        ))  # fmt: skip
    for arm in system.arms:
        if arm.contrast is None:
            continue
        c = arm.contrast
        said = "inside the floor" if arm.inside_noise else ""
        if c.pairing_gain is not None and c.pairing_gain < 1:
            said = "; ".join(filter(None, [said, "pairing did not help"]))
        rows.append((
            Cell(names[arm.label]), Cell(str(c.n), c.n), estimated(c.difference), plain(c.rho),
            Cell(DASH if c.pairing_gain is None else f"{number(c.pairing_gain)} ×", c.pairing_gain), Cell(said),
        ))  # fmt: skip
    if not rows:
        return None
    note = (
        "Variance gained: that of an unpaired comparison over that of the paired one, above 1 where sharing seeds "
        "helped."
    )
    if floor is not None:
        note = (
            "The A/A row compares two halves of the baseline's own seeds: without shared seeds, a difference inside "
            "its floor could be noise. Pairing sees through noise that arms share, and so tells smaller differences. "
            f"{note}"
        )
    return Table(
        title=f"Noise and pairing, {clean(system.system)}",
        header=(
            "arm",
            "pairs",
            f"difference in {clean(system.label)}",
            "correlation over seeds",
            "variance gained",
            "",
        ),
        rows=tuple(rows),
        own=frozenset({0} if floor is not None else ()),
        note=note,
    )


def _p(p: float | None) -> str:
    return "no p" if p is None else p_is(p)
