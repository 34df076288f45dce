"""The answer of a study in plain words."""

from __future__ import annotations

from core.study.findings import ArmFound, Findings, SystemFound
from core.study.report.judged import ORDER
from core.study.report.words import (
    STOPPED,
    clean,
    gain,
    interval,
    listed,
    percent,
    short_names,
    smallest,
    turned,
    verdict_word,
    why_stopped,
)
from core.study.stats.scores import FEWEST
from core.study.stats.verdict import BETTER, EQUIVALENT, INCONCLUSIVE, NOT_TESTED, WORSE
from core.words import plural

MOST = 8
"""arms that are spoken of one by one; more are only named"""


def sentences(findings: Findings) -> list[str]:
    """What may be said of each arm, and what may not: one sentence or more a system, better arms first."""
    out = [f"This study is not finished: {'; '.join(unfinished(findings))}."] if not findings.complete else []
    for system in findings.systems:
        out += _of_system(findings, system)
    if not findings.systems:
        out.append("The study has no system, so there is nothing to compare.")
    return out


def unfinished(findings: Findings) -> list[str]:
    """What a study that is not complete still lacks."""
    counts = findings.counts
    lacking = [f"{counts[key]:,} {key}" for key in sorted(counts) if counts[key] and key in _OPEN]
    if not lacking:
        return ["its deviations say why"]
    return [f"{listed(lacking)} of {plural(counts.get('planned', 0), 'planned trial')}"]


_OPEN = ("failed", "crashed", "timeout", "exhausted", "running", "pending")


def _of_system(findings: Findings, system: SystemFound) -> list[str]:
    names = short_names(findings, system)
    base = next((a for a in system.arms if a.baseline), None)
    where = f"On {clean(system.system)}, judged by {clean(system.label)}"
    if not any(o.value is not None for a in system.arms for o in a.outcomes):
        return [f"{where}, no trial has given a result yet, so nothing can be said."]
    arms = [a for a in system.arms if not a.baseline]
    if base is None or not arms:
        return [f"{where}, there is nothing to compare with a baseline."]
    out = []
    for word in ORDER:
        chosen = [a for a in arms if verdict_word(a) == word]
        if len(chosen) > MOST:
            out.append(f"{plural(len(chosen), 'arm')} are {_PHRASE[word]}: {listed([names[a.label] for a in chosen])}")
        elif word == NOT_TESTED and len(chosen) > 1 and len({_why(a) for a in chosen}) == 1:
            out.append(f"{listed([names[a.label] for a in chosen])} are not tested: {_why(chosen[0])}")
        else:
            out += [_of_arm(findings, a, names[a.label]) for a in chosen]
    better = "higher" if system.larger_is_better else "lower"
    return [f"{where} ({better} is better), against the baseline {names[base.label]}: {'; '.join(out)}."]


_PHRASE = {
    BETTER: "better", WORSE: "worse", EQUIVALENT: "equivalent to the baseline", INCONCLUSIVE: "inconclusive",
    NOT_TESTED: "not tested", STOPPED: "stopped as clearly worse",
}  # fmt: skip


def _why(arm: ArmFound) -> str:
    if arm.verdict is not None:
        return arm.verdict.why
    done = sum(o.value is not None for o in arm.outcomes)
    return f"{plural(done, 'result')}; a test needs {FEWEST} seeds that both arms share"


def _of_arm(findings: Findings, arm: ArmFound, name: str) -> str:
    word = verdict_word(arm)
    effect, relative = gain(arm)
    if word == STOPPED:
        return f"{name} was stopped{why_stopped(arm)}"
    if word == NOT_TESTED or effect is None or arm.contrast is None:
        return f"{name} is not tested: {_why(arm)}"
    if word in (BETTER, WORSE):
        size = effect if word == BETTER else turned(effect)
        slight = ", by less than the margin" if arm.verdict is not None and arm.verdict.within_margin else ""
        return f"{name} is {word} by {interval(size, relative=relative)}{slight}"
    if word == EQUIVALENT:
        return (
            f"{name} is equivalent within {percent(findings.margin)} "
            f"({interval(effect, relative=relative, signed=True)})"
        )
    least = smallest(arm)
    unit = "pair" if len(findings.blocks) > 1 else "seed"
    limit = f"{plural(arm.contrast.n, unit)} find differences of {least} or more" if least else _why(arm)
    return f"{name} is inconclusive ({interval(effect, relative=relative, signed=True)}): {limit}"
