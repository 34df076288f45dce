"""Every planned trial accounted for, or no report."""

from __future__ import annotations

from collections import Counter

from core.study.findings import Findings

CELLS = ("n/a", "excluded", "invalid")
"""keys of `counts` that count cells, not trials"""
FAILED = ("failed", "crashed", "timeout")
"""failures that may be tried again; a study may count them as one"""
ORDER = ("done", "cached", "failed", "crashed", "timeout", "exhausted", "stopped", "running", "pending")
MEANING = {
    "done": "ran here and gave a result",
    "cached": "taken from the store: the same trial had run before",
    "failed": "raised an error; may be tried again",
    "crashed": "died (memory, signal, reboot); may be tried again",
    "timeout": "took longer than allowed; may be tried again",
    "exhausted": "failed as often as allowed",
    "stopped": "its arm was given up as clearly worse; still counted in the correction",
    "running": "not finished when this was written",
    "pending": "not begun when this was written",
}


def states(findings: Findings) -> dict[str, int]:
    """Trials by state, in the order of a trial's life.

    Raises:
        ValueError: the counts do not add up to the planned trials, or differ from the trials that the arms list.
    """
    counts = findings.counts
    found = {key: n for key, n in counts.items() if key not in CELLS and key != "planned"}
    if "planned" not in counts or any(n < 0 for n in counts.values()):
        raise ValueError(f"the accounting needs 'planned' and counts of 0 or more, got {dict(counts)}.")
    if sum(found.values()) != counts["planned"]:
        parts = " + ".join(f"{n} {key}" for key, n in sorted(found.items()))
        raise ValueError(
            f"the accounting does not add up: {counts['planned']} trials were planned, but {parts or 'no states'} make "
            f"{sum(found.values())}. A report that loses trials is not written."
        )
    told, listed = _grouped(found), _grouped(_listed(findings))
    for state in sorted(told.keys() | listed.keys()):
        if told[state] != listed[state]:
            raise ValueError(
                f"the accounting says {told[state]} trials {state}, but the arms list {listed[state]}. A report that "
                "loses trials is not written."
            )
    cells = Counter(kind for _, kind, _ in findings.idle)
    for kind in CELLS:
        if kind in counts and counts[kind] != cells[kind]:
            raise ValueError(
                f"the accounting says {counts[kind]} cells {kind}, but {cells[kind]} are listed with reasons."
            )
    if findings.complete and (left := sum(n for key, n in found.items() if key not in ("done", "cached", "stopped"))):
        raise ValueError(f"a study is not complete while {left} of its trials are neither done nor stopped.")
    known = {key: found[key] for key in ORDER if key in found}
    return known | {key: found[key] for key in sorted(found) if key not in ORDER}


def missing(findings: Findings) -> list[tuple[str, str, str, str]]:
    """System, arm, which trials, and why, for each state in which trials of an arm gave no result."""
    rows = []
    for system in findings.systems:
        for arm in system.arms:
            without: dict[tuple[str, str], list[str]] = {}
            for o in arm.outcomes:
                if o.state != "done":
                    where = f"{o.seed} in {o.block}" if o.block else f"{o.seed}"
                    without.setdefault((o.state, arm.stopped if o.state == "stopped" else o.message), []).append(where)
            rows += [
                (
                    system.system,
                    arm.label,
                    f"seed{'s' * (len(seeds) > 1)} {', '.join(seeds)}",
                    f"{state}: {why}" if why else state,
                )
                for (state, why), seeds in without.items()
            ]
    return rows


def _listed(findings: Findings) -> Counter[str]:
    outcomes = [o for system in findings.systems for arm in system.arms for o in arm.outcomes]
    return Counter("cached" if o.state == "done" and o.cached else o.state for o in outcomes)


def _grouped(found: Counter[str] | dict[str, int]) -> Counter[str]:
    grouped: Counter[str] = Counter()
    for key, n in found.items():
        grouped["failed" if key in FAILED else key] += n
    return grouped
