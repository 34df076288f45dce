"""What lies in a study's directory, as scores: which trials have which numbers, and what is missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from core.errors import UserError
from core.names import near
from core.score import MODEL
from core.study.folder import Stored, TrialOf
from core.study.sealed import Damaged, load
from core.study.stats.scores import LARGEST
from core.study.table import Table
from core.study.trial import State, Trial


@attrs.frozen(kw_only=True)
class Seen:
    """One trial with what came of it."""

    of: TrialOf
    trial: Trial
    metrics: Mapping[str, Any]
    """empty unless done"""
    measured: Mapping[str, Any]
    message: str = ""
    """how its last attempt failed"""

    @property
    def done(self) -> bool:
        return bool(self.metrics)

    def scores(self) -> dict[str, dict[str, Any]]:
        """`task/metric` -> the model's own score."""
        return {f"{s['task']}/{s['metric']}": s for s in self.metrics.get("scores", []) if s["arm"] == MODEL}

    def value(self, key: str) -> float | None:
        """One score as the analysis takes it: None where there is none, or where it is too large to be averaged."""
        value = self.scores().get(key, {}).get("value")
        return None if value is None or abs(value) > LARGEST else value


def gather(stored: Stored, table: Table) -> list[Seen]:
    """Every trial of the plan, in the order of systems, arms, blocks and seeds."""
    place = {(arm["system"], arm["label"]): i for i, arm in enumerate(stored.arms)}
    order = sorted(stored.trials, key=lambda t: (place[t.system, t.arm], t.block, t.seed))
    return [_seen(table, of) for of in order]


def _seen(table: Table, of: TrialOf) -> Seen:
    trial = table.look(of.id)
    result = table.result(of.id) if trial.state is State.DONE else None
    return Seen(
        of=of,
        trial=trial,
        metrics=result.metrics if result else {},
        measured=result.measured if result else {},
        message="" if result else _stopped(table, trial) or _damaged(trial) or failure(table, trial),
    )


def _stopped(table: Table, trial: Trial) -> str:
    if trial.state is not State.STOPPED:
        return ""
    return str(_load(table, trial.id, "stopped.json").get("message") or "stopped; the reason can no longer be read")


def _damaged(trial: Trial) -> str:
    return "its result is damaged; the next runner makes it again" if trial.damaged else ""


def failure(table: Table, trial: Trial) -> str:
    """How the last attempt that failed did so; one that the user interrupted after it says nothing."""
    for attempt in range(trial.attempt, 0, -1):
        for how in ("failed", "crashed", "timeout"):
            facts = _load(table, trial.id, f"{how}.{attempt}.json")
            if facts:
                kind, message = facts.get("type"), str(facts.get("message") or how)
                return f"{kind}: {message}" if kind and kind != "UserError" else message
    return ""


def _load(table: Table, trial: str, name: str) -> dict[str, Any]:
    try:
        return load(table.folder(trial) / name)
    except (FileNotFoundError, Damaged):
        return {}


def primary(stored: Stored, system: str, known: Sequence[str]) -> str:
    """The full key, `task/metric`, of a system's primary metric among its scores; the plan's word where there are none.

    A metric that was named without its task belongs to the system's own task, else to the only one that has it.

    Args:
        stored: the study.
        system: whose.
        known: keys of the scores that there are.

    Raises:
        UserError: no score is called so, or several are.
    """
    said = stored.metrics[system]
    if not known or said in known:
        return said
    exactly = "/" in said and said in stored.value("analysis.metric")
    bare = said.rpartition("/")[2]
    found = [] if exactly else [key for key in known if key.rpartition("/")[2] == bare]
    if len(found) == 1:
        return found[0]
    if found:
        raise UserError(f"metric {bare!r} is scored in several tasks; say which: {', '.join(found)}")
    raise UserError(
        f"no score of {system} is called {said!r}.{near(said, known) or near(bare, known)} Scores: {', '.join(known)}"
    )
