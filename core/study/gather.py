"""What lies in a study's directory, as scores: which trials have which numbers, and what is missing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from core.errors import UserError
from core.names import near
from core.study.folder import Stored, TrialOf
from core.study.sealed import Damaged, load
from core.study.table import Table
from core.study.trial import State, Trial

MODEL = "model"
"""the arm of scores that are the trained model's own, as in `core.kinds.system`"""


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


def gather(stored: Stored, table: Table) -> list[Seen]:
    """Every trial of the plan, in the order of systems, arms, blocks and seeds."""
    place = {(arm["system"], arm["label"]): i for i, arm in enumerate(stored.arms)}
    order = sorted(stored.trials, key=lambda t: (place[t.system, t.arm], t.block, t.seed))
    return [_seen(table, of) for of in order]


def _seen(table: Table, of: TrialOf) -> Seen:
    trial = table.look(of.id)
    result = table.result(of.id) if trial.state is State.DONE else None
    message = "" if result or not trial.attempt else _message(table, trial)
    stopped = _load(table, trial.id, "stopped.json") if trial.state is State.STOPPED else {}
    return Seen(
        of=of,
        trial=trial,
        metrics=result.metrics if result else {},
        measured=result.measured if result else {},
        message=stopped.get("message", message),
    )


def _message(table: Table, trial: Trial) -> str:
    for how in ("failed", "crashed", "timeout"):
        facts = _load(table, trial.id, f"{how}.{trial.attempt}.json")
        if facts:
            kind = facts.get("type")
            return f"{kind}: {facts['message']}" if kind and kind != "UserError" else str(facts["message"])
    return ""


def _load(table: Table, trial: str, name: str) -> dict[str, Any]:
    try:
        return load(table.folder(trial) / name)
    except (FileNotFoundError, Damaged):
        return {}


def primary(seen: list[Seen], system: str, said: str) -> str:
    """The full key of a system's primary metric among the scores that there are; `said` where there are none yet.

    Raises:
        UserError: no score is called so.
    """
    known = [*dict.fromkeys(key for one in seen if one.of.system == system for key in one.scores())]
    if not known or said in known:
        return said
    bare = said.rpartition("/")[2]
    found = [key for key in known if key.rpartition("/")[2] == bare]
    if len(found) == 1:
        return found[0]
    if found:
        raise UserError(f"metric {bare!r} is scored in several tasks; say which: {', '.join(found)}")
    raise UserError(f"no score of {system} is called {said!r}.{near(said, known)} Scores: {', '.join(known)}")
