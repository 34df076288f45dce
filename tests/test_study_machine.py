"""The trial table against a model in memory: whatever the order of events, both agree on every trial."""

from __future__ import annotations

import tempfile
from pathlib import Path

import attrs
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from core.study import steps
from core.study.owner import Owner, Watch
from core.study.scan import Scanner
from core.study.steps import Claim, Conflict, Taken
from core.study.table import Table
from core.study.trial import State

TRIALS = 2
PROCESSES = 4
LEASE = 600
which = st.integers(0, TRIALS - 1)
who = st.integers(0, PROCESSES - 1)


@attrs.define
class Modelled:
    """What the table should say of a trial."""

    attempts: list[str] = attrs.Factory(list)
    """how each attempt stands: running, or how it ended"""
    owners: list[int] = attrs.Factory(list)
    result: float | None = None
    stopped: bool = False
    limit: int = 2
    conflicts: set[int] = attrs.Factory(set)

    def state(self) -> State:
        if self.result is not None:
            return State.DONE
        if self.stopped:
            return State.STOPPED
        if self.attempts and self.attempts[-1] == "running":
            return State.RUNNING
        if sum(how != "interrupted" for how in self.attempts) >= self.limit:
            return State.EXHAUSTED
        if not self.attempts or self.attempts[-1] == "interrupted":
            return State.PENDING
        return State(self.attempts[-1])


class TableMachine(RuleBasedStateMachine):
    """Processes of two machines share a table, die, fall silent and return late; the observers' clock is ours."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.now = 0.0
        self.starts = [str(100 + p) for p in range(PROCESSES)]
        self.living = [True] * PROCESSES
        self.beat: dict[Path, float] = {}
        self.claims: list[tuple[int, Claim]] = []
        self.patch = pytest.MonkeyPatch()

    @initialize()
    def plan(self) -> None:
        root = Path(self.folder.name) / "study"
        Table.create(root)
        # Even processes live on machine a, odd ones on b; each machine has its own eyes.
        self.tables = [Table(root, watch=self.eyes("ab"[p % 2])) for p in range(2)]
        self.ids = self.tables[0].add([{"seed": seed} for seed in range(TRIALS)])
        self.model = [Modelled() for _ in self.ids]
        self.scanner = Scanner(self.tables[0])

    def eyes(self, host: str) -> Watch:
        def started(pid: int) -> str:
            return self.starts[pid] if self.living[pid] else ""

        return Watch(
            lease=LEASE,
            clock=lambda: self.now,
            here=Owner(host=host, boot="boot", pid=-1, started="0"),
            started=started,
        )

    def process(self, p: int) -> Owner:
        return Owner(host="ab"[p % 2], boot="boot", pid=p, started=self.starts[p])

    def dead_for(self, trial: int, eyes: int) -> bool:
        """Whether the machine's eyes may take the last owner for dead: gone here, or silent for a lease elsewhere."""
        return not self.tables[eyes].alive(self.tables[eyes].look(self.ids[trial]))

    @rule(trial=which, p=who)
    def claim(self, trial: int, p: int) -> None:
        if not self.living[p]:
            return
        model = self.model[trial]
        if model.state() is State.RUNNING and self.dead_for(trial, p % 2):
            model.attempts[-1] = "crashed"
        free = model.state() in (State.PENDING, State.FAILED, State.CRASHED, State.TIMEOUT)
        self.patch.setattr(steps, "this_process", lambda: self.process(p))
        try:
            mine = steps.claim(self.tables[p % 2], self.ids[trial])
        except Taken:
            assert not free
            return
        assert free
        model.attempts.append("running")
        model.owners.append(p)
        assert mine.attempt == len(model.attempts)
        self.claims.append((p, mine))

    @rule(data=st.data(), value=st.sampled_from([0.25, 0.25, 0.5]))
    def finish(self, data: st.DataObject, value: float) -> None:
        """A living owner publishes, perhaps long after it was taken for dead."""
        mine = self.one_of_the_living(data)
        if mine is None:
            return
        p, claim = mine
        model = self.model[self.ids.index(claim.trial)]
        try:
            steps.finish(self.tables[p % 2], claim, {"loss": value}, {"by": p})
        except Conflict:
            assert model.result not in (None, value)
            model.conflicts.add(claim.attempt)
        else:
            assert model.result in (None, value)
            model.result = value

    @rule(data=st.data(), how=st.sampled_from(["failed", "interrupted", "timeout"]))
    def end(self, data: st.DataObject, how: steps.End) -> None:
        mine = self.one_of_the_living(data)
        if mine is None:
            return
        p, claim = mine
        model = self.model[self.ids.index(claim.trial)]
        if model.attempts[claim.attempt - 1] != "running":
            return
        steps.end(self.tables[p % 2], claim.trial, claim.attempt, how, {"message": ""})
        model.attempts[claim.attempt - 1] = how

    def one_of_the_living(self, data: st.DataObject) -> tuple[int, Claim] | None:
        living = [(p, claim) for p, claim in self.claims if self.living[p]]
        return data.draw(st.sampled_from(living)) if living else None

    @rule(p=who)
    def die(self, p: int) -> None:
        """A process is gone; its number is given to another with another start."""
        self.living[p] = False
        self.claims = [(q, claim) for q, claim in self.claims if q != p]

    @rule(p=who)
    def be_born(self, p: int) -> None:
        if not self.living[p]:
            self.living[p] = True
            self.starts[p] += "1"

    @rule(seconds=st.sampled_from([1, 300, 601]))
    def wait(self, seconds: int) -> None:
        """Time passes; no heart beats."""
        self.now += seconds

    @rule(trial=which, eyes=st.integers(0, 1))
    def bury(self, trial: int, eyes: int) -> None:
        model = self.model[trial]
        if model.state() is State.RUNNING:
            p = model.owners[-1]
            mine = self.tables[eyes]
            dead = self.dead_for(trial, eyes)
            if p % 2 == eyes:
                claim = next((c for q, c in self.claims if q == p and c.trial == self.ids[trial]), None)
                assert dead == (claim is None)
            if dead:
                model.attempts[-1] = "crashed"
            assert steps.bury(mine, self.ids[trial]).state is model.state()

    @rule(trial=which)
    def stop(self, trial: int) -> None:
        steps.stop(self.tables[0], self.ids[trial], {})
        self.model[trial].stopped |= self.model[trial].result is None

    @rule(trial=which, more=st.integers(1, 2))
    def retry(self, trial: int, more: int) -> None:
        model = self.model[trial]
        table = self.tables[0]
        new = not (table.folder(self.ids[trial]) / f"retry.{len(model.attempts)}.json").exists()
        steps.retry(table, self.ids[trial], more)
        if new:
            model.limit = max(model.limit, sum(how != "interrupted" for how in model.attempts) + more)

    @invariant()
    def both_agree(self) -> None:
        seen = self.scanner.scan()
        for trial, model in zip(self.ids, self.model, strict=True):
            found = seen[trial]
            assert found.state is model.state()
            assert len(model.conflicts) >= found.conflicts
            assert self.tables[1].look(trial).conflicts == len(model.conflicts)
            assert found.attempt == len(model.attempts)
            result = self.tables[1].result(trial)
            assert (result.metrics["loss"] if result else None) == model.result

    def teardown(self) -> None:
        self.patch.undo()
        self.folder.cleanup()


TestTable = TableMachine.TestCase
TestTable.settings = settings(deadline=None, max_examples=40, stateful_step_count=25)
