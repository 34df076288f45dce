"""From trials to findings: the analysis that the plan froze, put to what there is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from core.score import CEILING
from core.study.findings import (
    Audited,
    Deviation,
    Findings,
    OverSystems,
    SystemFound,
)
from core.study.folder import Stored, whole
from core.study.gather import Seen, gather
from core.study.sealed import TableError
from core.study.stats.aggregate import Scale, over_tasks
from core.study.stats.interquartile import Iqm, iqm
from core.study.stats.scores import FEWEST
from core.study.stats.verdict import Margin, judge
from core.study.system import SystemOf
from core.study.table import Table
from core.study.trial import State
from core.study.work import AUDIT
from core.words import reason, spell


def conclude(stored: Stored, table: Table) -> Findings:
    """Judge a study as it stands.

    Raises:
        UserError: the directory cannot be read, or the primary metric is no score.
    """
    whole(stored, table)
    seen = gather(stored, table)
    value = stored.value
    systems = _systems(stored, seen)
    counts = _counts(stored, seen)
    scales = _scales(systems, stored.first.get("trivial", {}))
    audited, trouble = _audited(stored, table)
    return Findings(
        title=value("title") or stored.root.resolve().name,
        plan=stored.hash,
        settings=tuple((key, _spell(v), origin) for key, (v, origin) in stored.settings.items()),
        axes={key: tuple(labels) for key, labels in stored.axes.items()},
        baseline=stored.first["baseline"],
        seeds=tuple(sorted({one.of.seed for one in seen})),
        blocks=tuple(dict.fromkeys(one.of.block for one in seen)) or ("",),
        alpha=value("analysis.alpha"),
        mde=value("analysis.mde"),
        margin=value("analysis.margin"),
        counts=counts,
        complete=counts["planned"] == counts["done"] + counts["cached"] + counts["stopped"],
        idle=tuple((arm["label"], arm["state"], arm["why"]) for arm in stored.arms if arm["state"] != "planned"),
        warnings=(*_warnings(stored, seen, systems), *trouble),
        deviations=tuple(_deviations(stored, seen, systems)),
        systems=systems,
        over_systems=_over_systems(systems, scales, value("analysis.alpha")),
        iqm=_iqm(systems, scales, value("analysis.alpha")),
        code=_tally(seen, "code"),
        environments=_tally(seen, "environment"),
        fixed=tuple(
            (key, _spell(v), task, origin)
            for task, own in sorted(stored.first.get("fixed", {}).items())
            for key, (v, origin) in sorted(own.items())
        ),
        pieces=tuple(stored.first["pieces"]) if "pieces" in stored.first else None,
        audited=audited,
    )


def _systems(stored: Stored, seen: Sequence[Seen]) -> tuple[SystemFound, ...]:
    """All systems, with verdicts over one family: every contrast that the plan holds, those of stopped arms too."""
    judged = [SystemOf(stored, name, [one for one in seen if one.of.system == name]) for name in stored.metrics]
    contrasts = [one.contrasts() for one in judged]
    family = sum(len(one.arms) - 1 for one in judged)
    margin = stored.value("analysis.margin")
    words = iter(
        judge(
            [contrast for own in contrasts for contrast in own.values()],
            alpha=stored.value("analysis.alpha"),
            margin=Margin(value=margin, relative=True) if margin else None,
            family_size=max(family, 1),
        )
    )
    return tuple(
        one.found(own, {label: next(words) for label in own}, family)
        for one, own in zip(judged, contrasts, strict=True)
    )


def _counts(stored: Stored, seen: Sequence[Seen]) -> dict[str, int]:
    counts = Counter("cached" if one.trial.cached and one.done else str(one.trial.state) for one in seen)
    names = ("done", "cached", "failed", "crashed", "timeout", "exhausted", "stopped", "running", "pending")
    idle = Counter(arm["state"] for arm in stored.arms)
    return {
        "planned": len(seen), **{name: counts.get(name, 0) for name in names},
        "n/a": idle.get("n/a", 0), "excluded": idle.get("excluded", 0),
    }  # fmt: skip


def _warnings(stored: Stored, seen: Sequence[Seen], systems: Sequence[SystemFound]) -> list[str]:
    found = []
    size = 100 * stored.value("analysis.mde")
    seeds = len({(one.of.block, one.of.seed) for one in seen})
    if seeds < FEWEST:
        found.append(
            f"W-SEEDS: {seeds} seed{'s' * (seeds != 1)}: nothing can be tested below {FEWEST}; only dots are shown."
        )
    elif 2 * 0.5**seeds > stored.value("analysis.alpha"):
        found.append(
            f"W-SEEDS: with {seeds} seeds the exact sign-flip test cannot go below p = {2 * 0.5**seeds:.3g}, so "
            "verdicts rest on differences being about normal."
        )
    for system in systems:
        if system.needed is not None and system.needed > seeds:
            found.append(
                f"W-POWER: {system.system}: at the spread seen here a difference of {size:g}% of the "
                f'baseline\'s mean needs {system.needed} seeds; there are {seeds}. Inconclusive is not "no effect".'
            )
        for arm in system.arms:
            if arm.contrast is not None and arm.contrast.rho is not None and arm.contrast.rho < 0:
                found.append(f"W-PAIRS: {arm.label}: pairing by seed did not help (rho {arm.contrast.rho:.2f}).")
    codes = _tally(seen, "code")
    if len(codes) > 1:
        told = ", ".join(f"{code[:9]} x {count}" for code, count in codes.items())
        found.append(f"W-CODE: results come from {len(codes)} revisions of the code ({told}); identities agree.")
    environments = _tally(seen, "environment")
    if len(environments) > 1:
        told = "; ".join(f"{text} x {count}" for text, count in environments.items())
        found.append(f"W-ENV: results come from {len(environments)} environments ({told}).")
    return found


def _deviations(stored: Stored, seen: Sequence[Seen], systems: Sequence[SystemFound]) -> list[Deviation]:
    keys = {system.system: system.metric for system in systems}
    found = [Deviation(kind=more["kind"], text=text) for more, text in zip(stored.later, _later(stored), strict=True)]
    for label, state, why in ((a["label"], a["state"], a["why"]) for a in stored.arms if a["state"] == "excluded"):
        found.append(Deviation(kind=state, text=f"{label} was left out of the design, because {reason(why)}"))
    stopped = {(one.of.system, one.of.arm): one.message for one in seen if one.trial.state is State.STOPPED}
    found += [Deviation(kind="stopped", text=f"{arm} ({system}): {why}") for (system, arm), why in stopped.items()]
    for one in seen:
        if one.trial.conflicts:
            found.append(Deviation(kind="conflict", text=f"trial {one.of.id} came to two different results"))
        if one.trial.damaged:
            found.append(
                Deviation(kind="corrupt", text=f"the result of trial {one.of.id} is damaged and counts as absent")
            )
        if (primary := keys[one.of.system]) in one.scores() and one.value(primary) is None:
            found.append(
                Deviation(
                    kind="missing",
                    text=f"{one.of.arm}, seed {one.of.seed}: {primary} is {one.scores()[primary]['value']}, which no "
                    "average can hold; the pair is left out",
                )
            )
        if one.trial.state in (State.EXHAUSTED, State.FAILED, State.CRASHED, State.TIMEOUT):
            found.append(
                Deviation(kind="missing", text=f"{one.of.arm}, seed {one.of.seed}: {one.trial.state}: {one.message}")
            )
    return found


def _later(stored: Stored) -> list[str]:
    """What was added to the plan, each in a sentence; a changed analysis names its settings in words, old and new."""
    known = {key: value for key, (value, _) in stored.first["settings"].items()}
    told = []
    for more in stored.later:
        changed = more.get("settings", {})
        head, said, _ = more["text"].partition(": ")
        parts = [f"{key} from {spell(known.get(key))} to {spell(value)}" for key, (value, _) in changed.items()]
        told.append(f"{head}: {'; '.join(parts)}" if more["kind"] == "analysis" and said and parts else more["text"])
        known |= {key: value for key, (value, _) in changed.items()}
    return told


def _audited(stored: Stored, table: Table) -> tuple[Audited | None, list[str]]:
    """What the repetitions of `core ablate audit` came to, and why they cannot be told where their folder is damaged.

    A repetition that is damaged or not finished counts as none.
    """
    root = stored.root / AUDIT
    if not (root / "LAYOUT").exists():
        return None, []
    planned = {trial.id for trial in stored.trials}
    same: dict[str, list[bool]] = {}
    try:
        again = Table(root, attempts=stored.value("run.attempts"))
        for name in again.ids():
            of = str(again.config(name)[1].get("trial", ""))[:16]
            first, second = (table.result(of) if of in planned else None), again.result(name)
            if first is not None and second is not None:
                same.setdefault(of, []).append(first.metrics == second.metrics)
    except TableError as error:
        return None, [f"W-AUDIT: what `core ablate audit` repeated cannot be told: {error}"]
    if not same:
        return None, []
    trials, times = len(same), sum(map(len, same.values()))
    return Audited(trials=trials, repetitions=times, other=sum(not all(found) for found in same.values())), []


def _over_systems(
    systems: Sequence[SystemFound], scales: Mapping[str, Scale] | None, alpha: float
) -> tuple[OverSystems, ...]:
    """Arms that no system has stopped, over all systems; nothing where a system has no scale."""
    if len(systems) < 2 or scales is None:
        return ()
    base, *others = _shared_arms(systems)
    scores = {label: _scores(systems, label) for label in (base, *others)}
    found = []
    for label in others:
        mean = over_tasks(scores[base], scores[label], scales, alpha=alpha)
        found.append(OverSystems(label=label, effects=mean.effects, mean=mean.mean, p=mean.p))
    return tuple(found)


def _iqm(systems: Sequence[SystemFound], scales: Mapping[str, Scale] | None, alpha: float) -> Iqm | None:
    if not systems or scales is None:
        return None
    labels = _shared_arms(systems)
    scores = {label: _scores(systems, label) for label in labels}
    for system in systems:
        rows = zip(*(scores[label][system.system] for label in labels), strict=True)
        if not any(all(value is not None for value in row) for row in rows):
            return None
    return iqm(scores, scales, baseline=labels[0], alpha=alpha)


def _shared_arms(systems: Sequence[SystemFound]) -> list[str]:
    """Labels of the arms that every system has and none has stopped, the baseline first."""
    known = [{arm.label for arm in system.arms if not arm.stopped} for system in systems]
    return [arm.label for arm in systems[0].arms if all(arm.label in labels for labels in known)]


def _scores(systems: Sequence[SystemFound], label: str) -> dict[str, list[float | None]]:
    """System -> an arm's scores over the pairs of block and seed that any arm of the system has."""
    found = {}
    for system in systems:
        pairs = sorted({(one.block, one.seed) for arm in system.arms for one in arm.outcomes})
        own = next(arm for arm in system.arms if arm.label == label)
        values = {(one.block, one.seed): one.value for one in own.outcomes}
        found[system.system] = [values.get(pair) for pair in pairs]
    return found


def _scales(systems: Sequence[SystemFound], trivial: Mapping[str, Sequence[str]]) -> dict[str, Scale] | None:
    """System -> its scale; None where any has none."""
    scales = {s.system: scale for s in systems if (scale := _scale(s, trivial.get(s.system, ()))) is not None}
    return scales if len(scales) == len(systems) else None


def _scale(system: SystemFound, trivial: Sequence[str]) -> Scale | None:
    """0 at the best of the baselines that learn nothing, 1 at the ceiling."""
    known = [system.references[arm] for arm in trivial if arm in system.references]
    ceiling = system.references.get(CEILING)
    if not known or ceiling is None:
        return None
    floor = max(known) if system.larger_is_better else min(known)
    return None if floor == ceiling else Scale(trivial=floor, best=ceiling)


def _tally(seen: Sequence[Seen], key: str) -> dict[str, int]:
    counts = Counter(str(one.measured[key]) for one in seen if key in one.measured)
    return dict(sorted(counts.items()))


def _spell(value: Any) -> str:
    """A setting as its flag takes it."""
    if isinstance(value, (list, tuple)):
        return ",".join(map(_spell, value))
    return str(value).lower() if isinstance(value, bool) else str(value)
