"""The runner: every trial once, whatever its process does, and an exit status that says what came of it."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from core.study import steps
from core.study.child import work_on
from core.study.job import Job, Running
from core.study.orphans import Limits, new_token, runner_lives
from core.study.owner import process_start
from core.study.runner import Runner
from core.study.sealed import TableError, load
from core.study.store import Store
from core.study.table import Table
from core.study.task import Event
from core.study.trial import State
from study_child import Here, command, environment
from tests.test_study_table import snapshot

CHILD = Path(__file__).with_name("study_child.py")
BOUND = 60.0
"""seconds after which a test gives up waiting for a real process"""


@pytest.fixture
def table(tmp_path: Path) -> Table:
    return Table.create(tmp_path / "study")


class Clock:
    """A steady clock that moves only when somebody sleeps, and then as the test says."""

    def __init__(self, step: float) -> None:
        self.now, self.step = 0.0, step

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        time.sleep(0.002)
        self.now += self.step


def run(table: Table, slots: int = 2, **more: object) -> tuple[int, list[Event], Runner]:
    events: list[Event] = []
    runner = Runner(
        table,
        more.pop("executor", Here(slots)),
        more.pop("command", lambda trial: command(table, trial)),
        tell=events.append,
        limits=more.pop("limits", Limits(rescan=0.05)),
        **more,
    )
    return runner.run(), events, runner


def until(ready: Callable[[], object]) -> None:
    """Wait for something that a process does."""
    give_up = time.monotonic() + BOUND
    while not ready():
        assert time.monotonic() < give_up
        time.sleep(0.002)


def flying(table: Table, trial: str) -> tuple[Clock, Callable[[float], None]]:
    """A clock that flies once the child hangs, so that no part of its start is taken for its work."""
    clock = Clock(step=0.0)
    real = clock.sleep

    def sleep(seconds: float) -> None:
        seen = table.look(trial)
        said = table.folder(trial) / f"attempt.{seen.attempt}" / "output.txt"
        hangs = seen.state is State.RUNNING and said.exists() and said.read_bytes() == b"hanging\n"
        clock.step = 60.0 if hangs else 0.0
        real(seconds)

    return clock, sleep


class TestEnds:
    """How trials end, and what the runner says of it."""

    def test_every_trial_once(self, table: Table, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """All done, exit status 0; a second time it starts nothing and changes no byte."""
        monkeypatch.setenv("STUDY_LOG", str(tmp_path / "log"))
        ids = table.add([{"seed": seed} for seed in range(5)])
        code, events, _ = run(table)
        assert code == 0
        assert Counter(e.kind for e in events) == {"started": 5, "done": 5}
        assert sorted(line.split()[1] for line in (tmp_path / "log").read_text().splitlines()) == sorted(ids)
        before = snapshot(table.root)
        code, events, _ = run(table)
        assert (code, events) == (0, [])
        assert snapshot(table.root) == before

    def test_one_that_misbehaves_costs_no_other(self, table: Table) -> None:
        """Raising, leaving, segfaulting, garbage, nan, a full disk: each is told within its attempts, the rest done."""
        what = {"raise": "RuntimeError: boom ?", "exit": "SystemExit: 3", "segfault": "ended by SIGSEGV",
                "garbage": "ValueError: a trial returns", "nan": "metric loss is nan",
                "full": "ended with status 1 and without a result"}  # fmt: skip
        good = table.add([{"seed": seed} for seed in range(3)])
        bad = dict(zip(table.add([{"does": name} for name in what]), what, strict=True))
        code, events, _ = run(table)
        assert code == 3
        for trial, name in bad.items():
            texts = [e.text for e in events if e.trial == trial and e.kind in ("failed", "crashed")]
            assert len(texts) == 2
            assert all(what[name] in text for text in texts)
            assert table.look(trial).state is State.EXHAUSTED
        assert all(table.look(trial).state is State.DONE for trial in good)
        raised = next(trial for trial, name in bad.items() if name == "raise")
        facts = load(table.folder(raised) / "failed.1.json")
        assert (facts["type"], facts["message"]) == ("RuntimeError", "boom ?")
        assert "in act" in facts["traceback"]
        assert facts["peak_memory"] > 2**20
        assert b"boom" in (table.folder(raised) / "attempt.1" / "output.txt").read_bytes()

    def test_one_that_hangs_is_ended(self, table: Table) -> None:
        """Past its time it is asked, after the grace forced; the attempt is a timeout, and the next begins."""
        (trial,) = table.add([{"does": "hang"}])
        clock, sleep = flying(table, trial)
        code, events, _ = run(table, limits=Limits(timeout=3600, grace=30, rescan=1), clock=clock, sleep=sleep)
        assert code == 3
        assert [(e.kind, e.code) for e in events if e.kind != "started"] == [("timeout", -signal.SIGKILL)] * 2
        assert load(table.folder(trial) / "timeout.2.json")["message"] == "timeout; ended by SIGKILL"
        assert clock.now > 2 * 3630

    def test_one_that_prints_without_end_is_cut(self, table: Table) -> None:
        """Its output stays within the bound, says that something was dropped, and the trial is done."""
        (trial,) = table.add([{"does": "flood", "blocks": 400}])
        assert run(table)[0] == 0
        output = table.folder(trial) / "attempt.1" / "output.txt"
        assert output.stat().st_size <= 4 * 2**20 + 100
        assert b"bytes of output were dropped" in output.read_bytes()

    def test_what_a_trial_starts_ends_with_it(self, table: Table) -> None:
        """A timeout reaches the whole session of the child."""
        (trial,) = table.add([{"does": "spawn"}])
        clock, sleep = flying(table, trial)
        assert run(table, limits=Limits(timeout=3600, grace=30, rescan=1), clock=clock, sleep=sleep)[0] == 3
        claims = [load(table.claim_path(trial, k))["owner"]["pid"] for k in (1, 2)]
        for pid in claims:
            until(lambda pid=pid: not members(pid))

    def test_a_process_that_never_claims_is_not_started_for_ever(self, table: Table) -> None:
        """A command that cannot work: status 5, never 0, with the process's own last words."""
        table.add([{"seed": 1}, {"seed": 2}])
        bad = (sys.executable, "-S", "-c", "raise SystemExit('no module named moe')")
        code, events, runner = run(table, command=lambda trial: bad)
        assert code == 5
        assert "2 trials pending" in runner.reason
        assert "no module named moe" in runner.reason
        assert Counter(e.kind for e in events) == {"started": 4, "unclaimed": 4}

    def test_a_process_that_always_refuses_is_not_started_for_ever(self, table: Table) -> None:
        """Status 75 from a trial that nobody has: given up as if it could not claim."""
        table.add([{"seed": 1}])
        code, events, runner = run(table, command=lambda trial: (sys.executable, "-S", "-c", "raise SystemExit(75)"))
        assert code == 5
        assert Counter(e.kind for e in events) == {"started": 2, "taken": 2}
        assert "exit status 75" in runner.reason

    def test_no_place_and_no_trial(self, table: Table) -> None:
        """Nothing planned, or an executor that has no place: status 5 with the reason."""
        code, _, runner = run(table)
        assert (code, "no trial is planned" in runner.reason) == (5, True)
        table.add([{"seed": 1}])
        code, events, runner = run(table, slots=0)
        assert (code, events, "no place" in runner.reason) == (5, [], True)

    def test_two_results_that_differ_end_with_1(self, table: Table) -> None:
        """A conflict on file is in the exit status."""
        (trial,) = table.add([{"seed": 1}])
        mine = steps.claim(table, trial)
        steps.finish(table, mine, {"loss": 1}, {})
        with contextlib.suppress(steps.Conflict):
            steps.finish(table, mine, {"loss": 2}, {})
        assert run(table)[0] == 1

    def test_results_of_the_store(self, table: Table, tmp_path: Path) -> None:
        """What one study finished, another takes without starting a process, and gives its own."""
        store = Store(tmp_path / "store", pytest.fail)
        table.add([{"seed": 1}, {"seed": 2}])
        assert run(table, store=store)[0] == 0
        other = Table.create(tmp_path / "other")
        ids = other.add([{"seed": 1}, {"seed": 2}, {"seed": 3}])
        code, events, _ = run(other, store=store)
        assert code == 0
        assert Counter(e.kind for e in events) == {"cached": 2, "started": 1, "done": 1}
        assert [other.look(i).cached for i in ids] == [True, True, False]
        assert len(list((tmp_path / "store").rglob("result.json"))) == 3


class TestChild:
    """A trial's own process."""

    @pytest.fixture
    def trial(self, table: Table) -> str:
        return table.add([{"seed": 1}])[0]

    def test_its_heart_beats(self, table: Table, trial: str) -> None:
        """While it works, its claim is touched."""

        def run(identity: dict, folder: Path) -> dict:
            claim = table.claim_path(trial, 1)
            os.utime(claim, (1, 1))
            until(lambda: claim.stat().st_mtime > 1)
            return {"metrics": {"loss": identity["seed"] / 2}, "measured": {"seconds": 1.5}}

        assert work_on(table, trial, run, beat=0.01) == 0
        found = table.result(trial)
        assert (found.metrics, found.measured["seconds"]) == ({"loss": 0.5}, 1.5)
        assert found.measured["peak_memory"] > 2**20

    def test_its_status(self, table: Table, trial: str, capsys: pytest.CaptureFixture[str]) -> None:
        """130 interrupted and not counted; 1 failed; 75 once it is done."""

        def interrupted(identity: dict, folder: Path) -> dict:
            raise KeyboardInterrupt

        assert work_on(table, trial, interrupted) == 130
        assert table.look(trial).counted == 0
        for wrong in (
            {"metrics": {}, "measured": {}},
            {"metrics": {"loss": 1}},
            {"metrics": {"x": object()}, "measured": {}},
        ):
            table.attempts += 1
            assert work_on(table, trial, lambda identity, folder, wrong=wrong: wrong) == 1
            assert table.result(trial) is None
        assert work_on(table, trial, lambda identity, folder: {"metrics": {"x": 1}, "measured": {}}) == 0
        assert work_on(table, trial, pytest.fail) == 75
        assert "is done" in capsys.readouterr().err

    def test_two_that_differ(self, table: Table, trial: str, capsys: pytest.CaptureFixture[str]) -> None:
        """One that comes late with other metrics ends with 1 and says both."""

        def late(identity: dict, folder: Path) -> dict:
            mine = steps.Claim(trial=trial, attempt=9, path=table.claim_path(trial, 9))
            steps.finish(table, mine, {"loss": 0.5}, {})
            return {"metrics": {"loss": 0.25}, "measured": {}}

        assert work_on(table, trial, late) == 1
        assert "E-CONFLICT" in capsys.readouterr().err

    def test_a_runner_whose_disk_is_full_says_so(
        self, table: Table, trial: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A named error instead of a status; the same command then goes on."""

        def full(path: Path, *args: object, **more: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(Path, "mkdir", full)
            with pytest.raises(TableError, match=r"E-DISK.*give the same command again"):
                run(table)
        assert run(table)[0] == 0


class TestOthers:
    """Runners share a table."""

    def test_the_loser_of_a_race_leaves_the_trial_alone(self, table: Table) -> None:
        """A trial that another claims between the look and the child's claim: 75, no attempt spent."""
        (trial,) = table.add([{"seed": 1}])

        class Slow(Here):
            def start(self, job: Job, output: Path, place: int) -> Running:
                steps.claim(table, trial, "another")
                return super().start(job, output, place)

        events: list[Event] = []

        def tell(event: Event) -> None:
            events.append(event)
            if event.kind == "taken":
                steps.finish(
                    table, steps.Claim(trial=trial, attempt=1, path=table.claim_path(trial, 1)), {"loss": 1}, {}
                )

        runner = Runner(table, Slow(1), lambda t: command(table, t), tell=tell, limits=Limits(rescan=0.01))
        assert runner.run() == 0
        assert [(e.kind, e.code) for e in events] == [("started", None), ("taken", 75)]
        assert list((table.root / "runners").iterdir()) == []

    def test_the_dead_of_another_runner_are_buried(self, table: Table) -> None:
        """A killed runner's child goes on and counts; a killed child is found dead, and its trial runs again."""
        hanging, good = table.add([{"does": "hang"}, {"seed": 1}])
        first = subprocess.Popen([sys.executable, "-S", CHILD, "runner", table.root, "2", "2"], env=environment())
        try:
            until(lambda: table.look(good).state is State.DONE and table.look(hanging).state is State.RUNNING)
            first.kill()
            first.wait()
            pid = load(table.claim_path(hanging, 1))["owner"]["pid"]
            until(lambda: (table.folder(hanging) / "attempt.1" / "output.txt").exists())
            assert process_start(pid)
            os.kill(pid, signal.SIGKILL)
            until(lambda: not process_start(pid))
            clock, sleep = flying(table, hanging)
            code, events, _ = run(table, limits=Limits(timeout=3600, grace=30, rescan=1), clock=clock, sleep=sleep)
        finally:
            first.kill()
        assert code == 3
        assert [(e.kind, e.attempt) for e in events] == [("crashed", 1), ("started", 2), ("timeout", 2)]
        assert "owner is gone" in load(table.folder(hanging) / "crashed.1.json")["message"]

    def test_an_orphan_that_hangs_is_ended(self, table: Table) -> None:
        """When its runner is dead and its time over, whoever watches ends it; while its runner lives, nobody does."""
        (trial,) = table.add([{"does": "hang"}])
        first = subprocess.Popen([sys.executable, "-S", CHILD, "runner", table.root, "1", "2"], env=environment())
        try:
            until(lambda: any(table.folder(trial).glob("attempt.1/output.txt")))
            token = load(table.claim_path(trial, 1))["token"]
            assert runner_lives(token)
            first.kill()
            first.wait()
            assert not runner_lives(token)
            one = Table(table.root, attempts=1)
            code, events, _ = run(one, limits=Limits(timeout=0.1, grace=0.1, rescan=0.05))
        finally:
            first.kill()
        assert code == 3
        assert (table.folder(trial) / "timeout.1.json").exists()
        assert "started" not in [e.kind for e in events]

    def test_a_token_names_its_runner(self) -> None:
        """This process lives; a number used again is another; what cannot be told from here is taken for alive."""
        pid, started, host, chance = new_token().split(".")
        assert runner_lives(f"{pid}.{started}.{host}.{chance}")
        assert not runner_lives(f"{pid}.1.{host}.{chance}")
        assert runner_lives(f"{pid}.1.elsewhere.{chance}")
        assert runner_lives("")
        assert runner_lives("somebody")


class TestSignals:
    """Interrupted, and continued by the same command."""

    @pytest.fixture
    def started(self, table: Table) -> Iterator[tuple[subprocess.Popen, str]]:
        (trial,) = table.add([{"does": "spawn"}])
        process = subprocess.Popen([sys.executable, "-S", CHILD, "runner", table.root, "1", "2"], env=environment())
        until(lambda: any(table.folder(trial).glob("attempt.1/output.txt")))
        yield process, trial
        process.kill()
        process.wait()

    @pytest.mark.parametrize(("signals", "code"), [(["SIGINT", "SIGINT"], 130), (["SIGTERM"], 143)])
    def test_children_are_asked_to_end(
        self, table: Table, started: tuple[subprocess.Popen, str], signals: list[str], code: int
    ) -> None:
        """The second Ctrl-C, or SIGTERM, ends the children; the attempt does not count, so nothing is lost."""
        process, trial = started
        for name in signals:
            process.send_signal(getattr(signal, name))
            # Signals of one number that wait together are one; the runner must have noted the first.
            until(lambda: process.poll() is not None or not pending(process.pid))
        assert process.wait(BOUND) == code
        seen = table.look(trial)
        assert (seen.state, seen.attempt, seen.counted) == (State.PENDING, 1, 0)

    def test_the_first_one_waits(self, table: Table, started: tuple[subprocess.Popen, str]) -> None:
        """After one Ctrl-C nothing more is started, and what runs comes to its end."""
        process, trial = started
        table.add([{"seed": 1}])
        process.send_signal(signal.SIGINT)
        os.kill(load(table.claim_path(trial, 1))["owner"]["pid"], signal.SIGKILL)
        assert process.wait(BOUND) == 130
        assert table.look(trial).state is State.CRASHED
        assert Counter(table.look(i).state for i in table.ids())[State.PENDING] == 1


@pytest.mark.slow
def test_kills_at_any_moment_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred and more SIGKILLs of runners and children, one to three runners at a time: the results are those of a
    study that nobody disturbed, byte for byte; each counted once, none lost, none started while its owner lived."""
    chance = random.Random(20)
    identities = [{"seed": seed} for seed in range(24)]
    calm = Table.create(tmp_path / "calm", attempts=1000)
    calm.add(identities)
    assert run(calm, limits=Limits(rescan=0.05))[0] == 0
    kills, rounds = Counter(), 0
    while sum(kills.values()) < 110:
        rounds += 1
        log = tmp_path / f"log-{rounds}"
        monkeypatch.setenv("STUDY_LOG", str(log))
        table = Table.create(tmp_path / f"study-{rounds}", attempts=1000)
        table.add(identities)
        disturb(table, chance, kills)
        assert run(table)[0] == 0
        assert numbers(table) == numbers(calm)
        starts = [line.split()[1:3] for line in log.read_text().splitlines()]
        assert len({tuple(start) for start in starts}) == len(starts)
        for trial in table.ids():
            folder = table.folder(trial)
            finished = load(folder / "result.json")["attempt"]
            claimed = {int(p.suffix[1:]) for p in folder.glob("claim.*")}
            ended = {int(p.suffixes[0][1:]) for p in folder.glob("crashed.*.json")}
            assert claimed == {*range(1, max(claimed) + 1)}
            assert claimed - ended == {finished}
        assert not list(table.root.rglob("conflict.*"))
    assert kills["runner"] >= 20
    assert kills["child"] >= 20


def disturb(table: Table, chance: random.Random, kills: Counter) -> None:
    """Run a study by one to three runners and kill them and their children at random, until it is done or enough."""
    words = [sys.executable, "-S", CHILD, "runner", table.root]
    wanted = chance.randint(1, 3)
    runners: list[subprocess.Popen] = []
    spent = 0
    give_up = time.monotonic() + BOUND
    while spent < 24 and time.monotonic() < give_up:
        runners = [r for r in runners if r.poll() is None]
        while len(runners) < wanted:
            runners.append(subprocess.Popen([*words, "2", "1000"], env=environment(), stdout=subprocess.DEVNULL))
        time.sleep(chance.uniform(0, 0.1))
        if all(table.look(trial).state is State.DONE for trial in table.ids()):
            break
        children = working(table.root)
        if chance.random() < 0.2:
            chance.choice(runners).kill()
            kills["runner"] += 1
            spent += 1
        elif children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(chance.choice(children), signal.SIGKILL)
                kills["child"] += 1
                spent += 1
    for runner in runners:
        if chance.random() < 0.5:
            runner.kill()
            kills["runner"] += runner.poll() is None
        runner.wait(BOUND)


def numbers(table: Table) -> dict[str, object]:
    """What a report is made of."""
    return {trial: table.result(trial).metrics for trial in table.ids()}


def working(root: Path) -> list[int]:
    """Living processes of trials of a study."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = path.read_bytes().split(b"\0")
            if b"work" in words and str(root).encode() in words:
                found.append(int(path.parent.name))
    return found


def members(session: int) -> list[int]:
    """Living processes of a session."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = path.read_text().rpartition(")")[2].split()
            if int(fields[3]) == session and fields[0] not in "ZX":
                found.append(int(path.parent.name))
    return found


def pending(pid: int) -> bool:
    """Whether a signal waits to be handled by a process."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(("SigPnd", "ShdPnd")) and int(line.split()[1], 16):
                return True
    return False
