"""The trial table: what its files say, and what happens to them when a disk or a process fails."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.identity import digest
from core.study import planned, sealed, steps
from core.study.owner import Owner, Watch, this_process
from core.study.scan import Scanner
from core.study.sealed import Damaged, TableError, load, publish, seal, unseal
from core.study.steps import Conflict, Taken
from core.study.store import Store
from core.study.table import Table
from core.study.trial import State
from tests.fakes import python

ONE = {"seed": 1, "config": {"lr": 0.001}}
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
).filter(lambda value: "\ud800" not in repr(value))


def nobody_lives() -> Watch:
    """A watch for which every owner of this machine is dead."""
    return Watch(started=lambda pid: "")


@pytest.fixture
def table(tmp_path: Path) -> Table:
    return Table.create(tmp_path / "study", watch=nobody_lives())


@pytest.fixture
def trial(table: Table) -> str:
    return table.add([ONE])[0]


class TestSealedFiles:
    """Whole or not there; and what is there is what was written."""

    @given(values)
    @settings(deadline=None, max_examples=50)
    def test_what_was_sealed_comes_back(self, value: object) -> None:
        """`unseal` inverts `seal`, up to the canonical form."""
        assert digest(unseal(seal(value))) == digest(value)

    @given(values, st.data())
    @settings(deadline=None, max_examples=100)
    def test_any_change_of_a_byte_is_noticed(self, value: object, data: st.DataObject) -> None:
        """A flipped bit, a missing end, an empty file, anything appended: Damaged, never another value."""
        whole = seal(value)
        at = data.draw(st.integers(0, len(whole) - 1))
        bit = data.draw(st.integers(0, 7))
        flipped = whole[:at] + bytes([whole[at] ^ 1 << bit]) + whole[at + 1 :]
        for changed in (flipped, whole[:at], b"", whole + b"x", whole + whole):
            with pytest.raises(Damaged):
                unseal(changed)

    def test_the_first_writer_wins(self, tmp_path: Path) -> None:
        """A second publication changes nothing and says so; no temporary file is left."""
        assert publish(tmp_path / "a", b"one")
        assert not publish(tmp_path / "a", b"two")
        assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("a", b"one")]

    def test_a_number_that_is_none_is_refused(self) -> None:
        """nan has no canonical form."""
        with pytest.raises(ValueError, match="Out of range"):
            seal({"loss": float("nan")})


class TestPlanning:
    """Which trials there are."""

    def test_planning_again_changes_no_byte(self, table: Table) -> None:
        """Ids come in the order asked for, from content alone; the same plan again writes nothing."""
        identities = [{"seed": seed, "lr": 1e-3} for seed in range(5)]
        ids = table.add(identities)
        before = snapshot(table.root)
        assert Table(table.root).add([{"lr": 0.001, "seed": seed} for seed in range(5)]) == ids
        assert snapshot(table.root) == before
        assert table.ids() == sorted(ids)
        assert [table.config(i)[1] for i in ids] == identities

    def test_extending_keeps_what_is_there(self, table: Table) -> None:
        """More trials are one more file; ids of the old ones stay, also for a table opened before."""
        other = Table(table.root)
        old = other.add([{"seed": 0}, {"seed": 1}])
        assert table.add([{"seed": 1}, {"seed": 2}])[0] == old[1]
        assert other.ids() == table.ids()
        assert len(other.ids()) == 3

    def test_a_plan_that_was_changed_is_an_error(self, table: Table, trial: str) -> None:
        """One changed byte of the plan is reported, with a way out; no trial is guessed."""
        (path,) = (table.root / "planned").iterdir()
        path.write_bytes(path.read_bytes().replace(b"0.001", b"0.002"))
        with pytest.raises(TableError, match=r"E-PLAN.*plan again"):
            Table(table.root).ids()
        path.unlink()
        assert Table(table.root).add([ONE]) == [trial]

    def test_equal_first_digits_are_refused(self, table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
        """Two trials that would share a folder are an error, in one plan or over two."""

        class Short:
            def __init__(self, text: bytes) -> None:
                self.text = text

            def hexdigest(self) -> str:
                return "ab" * 8 + self.text.hex().ljust(48, "0")[-48:]

        monkeypatch.setattr(planned.hashlib, "sha256", Short)
        with pytest.raises(TableError, match="E-COLLISION"):
            table.add([{"a": 1}, {"a": 2}])

    def test_a_trial_nobody_planned_is_an_error(self, table: Table, trial: str) -> None:
        """An id that is not in the plan is named."""
        with pytest.raises(TableError, match=r"E-TRIAL.*no trial 0123456789abcdef"):
            table.look("0123456789abcdef")

    @pytest.mark.parametrize("harm", [lambda p: p.unlink(), lambda p: p.write_bytes(b""), lambda p: flip(p, 20)])
    def test_a_damaged_config_is_written_anew(self, table: Table, trial: str, harm: Callable[[Path], None]) -> None:
        """The config in a trial's folder is a copy of the plan's line."""
        table.open(trial)
        path = table.folder(trial) / "config.json"
        whole = path.read_bytes()
        harm(path)
        assert table.config(trial) == (digest(ONE), ONE)
        table.open(trial)
        assert path.read_bytes() == whole


class TestLayout:
    """Whether a directory is a study."""

    def test_no_study(self, tmp_path: Path) -> None:
        """A folder that is none, or is not there, says so."""
        for place in (tmp_path, tmp_path / "nowhere"):
            with pytest.raises(TableError, match=r"E-LAYOUT.*holds no study"):
                Table(place)

    def test_a_newer_one_is_left_alone(self, table: Table) -> None:
        """A later layout is refused, and not a byte is written."""
        (table.root / "LAYOUT").write_bytes(seal({"layout": 2, "study": "x", "more": 1}))
        before = snapshot(table.root)
        for make in (Table, Table.create):
            with pytest.raises(TableError, match=r"E-LAYOUT.*newer cellcore.*Update"):
                make(table.root)
        assert snapshot(table.root) == before

    def test_a_damaged_one(self, table: Table) -> None:
        """A changed byte of LAYOUT is noticed."""
        flip(table.root / "LAYOUT", 12)
        with pytest.raises(TableError, match="E-LAYOUT"):
            Table(table.root)


class TestAttempts:
    """Claimed, ended, done; and by whom."""

    def test_from_pending_to_done(self, table: Table, trial: str) -> None:
        """The states on the way, and the result that comes back."""
        table.watch = Watch()
        assert table.look(trial).state is State.PENDING
        mine = steps.claim(table, trial)
        assert (table.look(trial).state, table.look(trial).attempt) == (State.RUNNING, 1)
        steps.finish(table, mine, {"loss": 0.25}, {"seconds": 3.0})
        found = table.result(trial)
        assert found is not None
        assert (found.metrics, found.measured, found.attempt, found.cached) == (
            {"loss": 0.25},
            {"seconds": 3.0},
            1,
            False,
        )
        assert table.look(trial).state is State.DONE

    def test_one_claim_at_a_time(self, table: Table, trial: str) -> None:
        """Neither a running nor a finished trial is claimed again."""
        table.watch = Watch()
        mine = steps.claim(table, trial)
        with pytest.raises(Taken, match="running"):
            steps.claim(table, trial)
        steps.finish(table, mine, {"loss": 1}, {})
        with pytest.raises(Taken, match="done"):
            steps.claim(table, trial)

    def test_attempts_are_capped_and_granted(self, table: Table, trial: str) -> None:
        """Crashes count; out of attempts is EXHAUSTED; `retry` grants more and keeps history; interrupts are free."""
        steps.claim(table, trial)  # its owner is dead at once
        assert steps.bury(table, trial).state is State.CRASHED
        mine = steps.claim(table, trial)
        steps.end(table, trial, mine.attempt, "interrupted", {"message": "Ctrl-C"})
        assert table.look(trial).state is State.PENDING
        mine = steps.claim(table, trial)
        steps.end(table, trial, mine.attempt, "failed", {"message": "boom"})
        assert table.look(trial).state is State.EXHAUSTED
        with pytest.raises(Taken, match="exhausted"):
            steps.claim(table, trial)
        again = steps.retry(table, trial)
        assert (again.state, again.limit) == (State.FAILED, 3)
        assert steps.retry(table, trial).limit == 3
        assert steps.claim(table, trial).attempt == 4
        assert {p.name for p in table.folder(trial).iterdir()} >= {
            "crashed.1.json", "interrupted.2.json", "failed.3.json", "retry.3.json",
        }  # fmt: skip

    def test_a_stopped_trial_is_not_started(self, table: Table, trial: str) -> None:
        """Stopped is resolved; what is done stays done."""
        assert steps.stop(table, trial, {"rung": 5}).state is State.STOPPED
        with pytest.raises(Taken, match="stopped"):
            steps.claim(table, trial)
        (done,) = table.add([{"seed": 2}])
        steps.finish(table, steps.claim(table, done), {"loss": 1}, {})
        assert steps.stop(table, done, {"rung": 5}).state is State.DONE

    def test_a_result_between_look_and_claim_is_seen(
        self, table: Table, trial: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Whoever claims late looks again, withdraws its claim and leaves the result alone."""
        first = steps.claim(table, trial)
        steps.bury(table, trial)
        real = steps.publish

        def late(path: Path, data: bytes) -> bool:
            if path.name == "claim.2":
                steps.finish(table, first, {"loss": 1}, {})
            return real(path, data)

        monkeypatch.setattr(steps, "publish", late)
        with pytest.raises(Taken, match="done"):
            steps.claim(table, trial)
        assert not table.claim_path(trial, 2).exists()

    def test_equal_results_are_one_and_different_ones_a_conflict(self, table: Table, trial: str) -> None:
        """What was measured may differ; a metric that differs is told with both values, and the first stands."""
        first, second = steps.claim(table, trial), steps.claim(table, trial)
        steps.finish(table, first, {"loss": 0.8123, "n": 1}, {"seconds": 1.0})
        steps.finish(table, second, {"loss": 0.8123, "n": 1}, {"seconds": 2.0})
        assert table.look(trial).conflicts == 0
        with pytest.raises(Conflict, match=r"E-CONFLICT.*attempt 1: loss 0.8123, attempt 2: loss 0.8127.*conflict.2"):
            steps.finish(table, second, {"loss": 0.8127, "n": 1}, {})
        assert (table.look(trial).conflicts, table.result(trial).metrics["loss"]) == (1, 0.8123)

    @pytest.mark.parametrize("harm", [lambda p: p.write_bytes(b""), lambda p: flip(p, 40), lambda p: truncate(p)])
    def test_a_damaged_result_counts_as_absent(self, table: Table, trial: str, harm: Callable[[Path], None]) -> None:
        """It is told, never read as numbers; the trial runs again, the old bytes are kept aside."""
        steps.finish(table, steps.claim(table, trial), {"loss": 0.5}, {})
        path = table.folder(trial) / "result.json"
        harm(path)
        bytes_then = path.read_bytes()
        seen = Scanner(table).scan()[trial]
        assert (seen.state, seen.damaged, table.result(trial)) == (State.RUNNING, True, None)
        again = steps.claim(table, trial)
        assert (path.with_name("result.corrupt.1")).read_bytes() == bytes_then
        steps.finish(table, again, {"loss": 0.5}, {})
        assert table.result(trial).metrics == {"loss": 0.5}

    def test_a_result_of_another_trial_is_not_taken(self, table: Table, trial: str) -> None:
        """A whole file in the wrong folder counts as absent."""
        (other,) = table.add([{"seed": 2}])
        steps.finish(table, steps.claim(table, other), {"loss": 0.5}, {})
        table.open(trial)
        shutil.copy(table.folder(other) / "result.json", table.folder(trial) / "result.json")
        assert table.look(trial).damaged
        assert table.result(trial) is None

    def test_scanning_says_what_looking_says(self, table: Table) -> None:
        """The quick scan of all trials equals a look at each, in every state."""
        ids = table.add([{"seed": seed} for seed in range(6)])
        steps.finish(table, steps.claim(table, ids[0]), {"loss": 1}, {})
        steps.claim(table, ids[1])
        steps.end(table, ids[2], steps.claim(table, ids[2]).attempt, "timeout", {"message": ""})
        steps.stop(table, ids[3], {})
        table.open(ids[4])
        scanner = Scanner(table)
        assert scanner.scan() == scanner.scan() == {i: table.look(i) for i in sorted(ids)}
        steps.end(table, ids[1], 1, "failed", {"message": ""})
        assert scanner.scan()[ids[1]].state is State.FAILED


class TestOwners:
    """Who is alive."""

    @pytest.fixture
    def claim(self, table: Table, trial: str) -> Path:
        return steps.claim(table, trial).path

    def owned(self, path: Path, **facts: object) -> Path:
        path.unlink()
        path.write_bytes(seal({"trial": "x", "token": "", "owner": {**attrs.asdict(this_process()), **facts}}))
        return path

    def test_a_process_of_this_machine(self, claim: Path) -> None:
        """Alive is the same number with the same start in the same boot; a number used again is somebody else."""
        assert Watch().alive(claim)
        assert Watch().lives_here(claim)
        assert not Watch(started=lambda pid: "77").alive(claim)
        assert not Watch(started=lambda pid: "").alive(claim)
        assert not Watch(here=attrs.evolve(this_process(), boot="another")).alive(claim)

    @given(jumps=st.lists(st.sampled_from([-86400.0, 86400.0, 1.0]), max_size=4))
    @settings(deadline=None, max_examples=20)
    def test_another_machine_is_given_a_whole_lease_of_silence(self, jumps: list[float]) -> None:
        """Only a stamp that stands still for a lease of our own clock is death; jumping wall clocks are none."""
        with tempfile.TemporaryDirectory() as folder:
            claim = Path(folder) / "claim.1"
            claim.write_bytes(b"")
            self.owned(claim, host="elsewhere")
            now = [0.0]
            watch = Watch(clock=lambda: now[0], lease=600)
            stamp = 1e9
            for jump in jumps:
                stamp += jump
                os.utime(claim, (stamp, stamp))
                assert watch.alive(claim)
                now[0] += 599
            assert watch.alive(claim)
            seen = now[0]
            now[0] = seen + 599
            beats = watch.alive(claim)
            assert beats or jumps
            now[0] = seen + 600.5
            assert not watch.alive(claim)
            assert watch.silent(claim) >= 600
            os.utime(claim, (1, 1))
            assert watch.alive(claim)
            assert not watch.lives_here(claim)

    @pytest.mark.parametrize("content", [b"", b"garbage"])
    def test_a_claim_nobody_can_read_is_judged_by_its_beats(self, table: Table, trial: str, content: bytes) -> None:
        """Its owner may live: the trial is not started before a lease of silence."""
        now = [0.0]
        table.watch = Watch(clock=lambda: now[0], lease=600)
        path = steps.claim(table, trial).path
        path.write_bytes(content)
        with pytest.raises(Taken, match="running"):
            steps.claim(table, trial)
        now[0] = 601
        assert steps.claim(table, trial).attempt == 2
        assert "silent for 601 s" in load(table.folder(trial) / "crashed.1.json")["message"]

    def test_an_owner_that_ended_well_is_not_buried(
        self, table: Table, trial: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Between the look and its death an owner may publish: that counts."""
        mine = steps.claim(table, trial)

        def publishes_and_dies(path: Path) -> bool:
            steps.finish(table, mine, {"loss": 1}, {})
            return False

        monkeypatch.setattr(table.watch, "alive", publishes_and_dies)
        assert steps.bury(table, trial).state is State.DONE
        assert not (table.folder(trial) / "crashed.1.json").exists()

    def test_without_start_times_the_lease_decides(self, table: Table, claim: Path) -> None:
        """A system that does not tell when a process began is judged as another machine is."""
        self.owned(claim, started="")
        assert Watch().alive(claim)
        assert Owner(host="a", boot="b", pid=1, started="") == Owner(host="a", boot="b", pid=1, started="")


class TestDisk:
    """A disk that is full, forbidden or strange: a named error, nothing partial, nothing lost."""

    @pytest.fixture
    def steps_of_a_trial(self, table: Table) -> list[tuple[str, Callable[[], object]]]:
        (trial,) = table.add([ONE])

        def claimed() -> None:
            if table.look(trial).state is not State.RUNNING:
                steps.claim(table, trial)

        def finished() -> None:
            steps.finish(table, steps.Claim(trial=trial, attempt=1, path=table.claim_path(trial, 1)), {"loss": 1}, {})

        return [("plan", lambda: table.add([ONE, {"seed": 9}])), ("claim", claimed), ("finish", finished)]

    @pytest.mark.parametrize(
        ("code", "named"),
        [
            (errno.ENOSPC, "E-DISK"),
            (errno.EDQUOT, "E-DISK"),
            (errno.EROFS, "E-READONLY"),
            (errno.EACCES, "E-READONLY"),
            (errno.EIO, "E-IO"),
        ],
    )
    @pytest.mark.parametrize("call", ["open", "write", "fsync"])
    def test_any_call_may_fail(
        self,
        table: Table,
        steps_of_a_trial: list[tuple[str, Callable[[], object]]],
        monkeypatch: pytest.MonkeyPatch,
        call: str,
        code: int,
        named: str,
    ) -> None:
        """At each write of each step: the named error, whole files only, and the same step then succeeds."""
        table.watch = Watch()
        real = getattr(os, call)
        for _, step in steps_of_a_trial:
            for at in range(1, 50):
                left = [at]

                def fails(*args: object, left: list[int] = left, **more: object) -> object:
                    reading = call == "open" and not args[1] & os.O_CREAT  # type: ignore[operator]
                    if not reading:
                        left[0] -= 1
                        if left[0] == 0:
                            raise OSError(code, os.strerror(code))
                    return real(*args, **more)

                with monkeypatch.context() as patch:
                    patch.setattr(os, call, fails)
                    try:
                        step()
                    except TableError as error:
                        assert str(error).startswith(named)  # noqa: PT017
                    else:
                        assert left[0] > 0
                        break
                whole(table)
            else:
                raise AssertionError("it never got through")
        assert table.result(table.ids()[0]) or table.result(table.ids()[1])

    def test_no_hard_links(self, table: Table, trial: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """A file system without links is named, with what to do."""

        def link(*_: object) -> None:
            raise OSError(errno.EPERM, "Operation not permitted")

        monkeypatch.setattr(os, "link", link)
        with pytest.raises(TableError, match=r"E-LINK.*hard links.*-o"):
            steps.claim(table, trial)
        whole(table)

    def test_half_a_write_is_completed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A `write` that takes one byte at a time still gives the whole file."""
        real = os.write
        monkeypatch.setattr(os, "write", lambda handle, data: real(handle, bytes(data[:1])))
        publish(tmp_path / "a", seal([1, 2]))
        assert load(tmp_path / "a") == [1, 2]

    def test_an_answer_lost_by_nfs(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A link that was made although its answer says it exists counts as ours."""
        real = os.link

        def twice(one: Path, other: Path) -> None:
            real(one, other)
            raise FileExistsError

        monkeypatch.setattr(os, "link", twice)
        assert publish(tmp_path / "a", b"x")


class TestKilledBetweenTwoCalls:
    """Death at each system call of plan, claim and publish leaves the table before or after the step, never between."""

    CALLS = ("open", "write", "fsync", "link", "unlink", "mkdir", "rename", "replace", "close")

    def test_each_step_at_each_call(self, tmp_path: Path) -> None:
        """A forked process dies at call k, for every k: the table is sound, and the step is then done by another."""
        deaths = 0
        for step in ("plan", "claim", "finish", "end"):
            for k in range(1, 200):
                root = tmp_path / f"{step}-{k}"
                table = Table.create(root, watch=nobody_lives())
                if step != "plan":
                    (trial,) = table.add([ONE])
                if step in ("finish", "end"):
                    steps.claim(table, trial)
                died = die_at(k, self.CALLS, lambda table=table, step=step: self.do(table, step))
                deaths += died
                whole(table)
                self.do(table, step)
                assert table.ids() == [digest(ONE)[:16]]
                wanted = {
                    "plan": {State.PENDING}, "claim": {State.RUNNING}, "finish": {State.DONE}, "end": {State.FAILED},
                }  # fmt: skip
                assert table.look(table.ids()[0]).state in wanted[step]
                whole(table)
                if not died:
                    break
        assert deaths > 25

    def do(self, table: Table, step: str) -> None:
        if step == "plan":
            table.add([ONE])
            return
        (trial,) = table.ids()
        mine = steps.Claim(trial=trial, attempt=1, path=table.claim_path(trial, 1))
        if step == "claim":
            steps.claim(table, trial)
        elif step == "finish":
            steps.finish(table, mine, {"loss": 1}, {})
        else:
            steps.end(table, trial, 1, "failed", {"message": "boom"})


class TestStore:
    """What studies share."""

    @pytest.fixture
    def said(self) -> list[str]:
        return []

    def finished(self, root: Path, loss: float = 0.5) -> tuple[Table, str]:
        table = Table.create(root, watch=nobody_lives())
        (trial,) = table.add([ONE])
        steps.finish(table, steps.claim(table, trial), {"loss": loss}, {})
        return table, trial

    @pytest.mark.parametrize("links", [True, False])
    def test_another_study_takes_what_one_has(
        self, tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch, links: bool
    ) -> None:
        """The same bytes, by link or by copy, marked as cached; nothing is told."""
        one, trial = self.finished(tmp_path / "one")
        other = Table.create(tmp_path / "other")
        other.add([ONE])
        store = Store(tmp_path / "store", said.append)
        real = os.link
        if not links:

            def far(source: Path, path: Path) -> None:
                if Path(source).parent != Path(path).parent:
                    raise OSError(errno.EXDEV, "Invalid cross-device link")
                real(source, path)

            monkeypatch.setattr(os, "link", far)
        assert not store.give(other, trial)
        assert store.keep(one, trial)
        assert not store.keep(one, trial)
        assert store.give(other, trial)
        assert not store.give(other, trial)
        first, second = (t.folder(trial) / "result.json" for t in (one, other))
        assert first.read_bytes() == second.read_bytes()
        assert (first.stat().st_ino == second.stat().st_ino) == links
        assert (one.look(trial).cached, other.look(trial).cached, other.result(trial).cached) == (False, True, True)
        assert said == []

    def test_what_is_damaged_is_not_taken(self, tmp_path: Path, said: list[str]) -> None:
        """A changed byte in the store: no result is given, and storing anew says what is wrong."""
        one, trial = self.finished(tmp_path / "one")
        store = Store(tmp_path / "store", said.append)
        store.keep(one, trial)
        (path,) = (tmp_path / "store").rglob("result.json")
        data = path.read_bytes()
        path.unlink()
        path.write_bytes(data[:-9] + (b"0" if data[-9:-8] != b"0" else b"1") + data[-8:])
        other = Table.create(tmp_path / "other")
        other.add([ONE])
        assert not store.give(other, trial)
        assert not store.keep(one, trial)
        assert "W-STORE" in said[0]
        assert other.look(trial).state is State.PENDING

    def test_another_number_for_the_same_trial_is_told(self, tmp_path: Path, said: list[str]) -> None:
        """The stored result stays; the difference is told."""
        store = Store(tmp_path / "store", said.append)
        for name, loss in (("one", 0.5), ("other", 0.75)):
            store.keep(*self.finished(tmp_path / name, loss))
        assert len(said) == 1
        assert "other metrics" in said[0]

    def test_a_newer_store_is_left_alone(self, tmp_path: Path, said: list[str]) -> None:
        """The study goes on without it, and says why."""
        (tmp_path / "store").mkdir()
        (tmp_path / "store" / "REVISION").write_bytes(seal({"revision": 2}))
        one, trial = self.finished(tmp_path / "one")
        store = Store(tmp_path / "store", said.append)
        assert not store.keep(one, trial)
        assert not store.give(one, trial)
        assert "newer cellcore" in said[0]

    @pytest.mark.parametrize("code", [errno.EROFS, errno.ENOSPC])
    def test_a_store_that_cannot_be_written(
        self, tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch, code: int
    ) -> None:
        """Told once; the study has lost nothing."""
        one, trial = self.finished(tmp_path / "one")
        (two,) = one.add([{"seed": 2}])
        steps.finish(one, steps.claim(one, two), {"loss": 1}, {})
        store = Store(tmp_path / "store", said.append)
        real = Path.mkdir

        def mkdir(path: Path, *args: object, **more: object) -> None:
            if "store" in path.parts:
                raise OSError(code, os.strerror(code))
            real(path, *args, **more)

        monkeypatch.setattr(Path, "mkdir", mkdir)
        assert not store.keep(one, trial)
        assert not store.keep(one, two)
        assert len(said) == 1
        assert one.look(trial).state is State.DONE

    def test_a_file_in_its_place(self, tmp_path: Path, said: list[str]) -> None:
        """A store that cannot even be made is no reason to stop."""
        (tmp_path / "store").write_text("")
        store = Store(tmp_path / "store", said.append)
        assert not store.keep(*self.finished(tmp_path / "one"))
        assert len(said) == 1


def test_a_runner_needs_neither_torch_nor_numpy(tmp_path: Path) -> None:
    """The table and its runners are imported without torch, numpy or a plugin; planning and judging need them."""
    own = {"arms", "ask", "axes", "conclude", "design", "drive", "estimate", "findings", "folder", "gather"}
    own |= {"live", "match", "mismatch", "plan", "said", "settings", "spans", "spell", "system", "work"}
    names = sorted(p.stem for p in Path(sealed.__file__).parent.glob("[a-z]*.py") if p.stem not in own)
    code = f"import sys, {', '.join('core.study.' + n for n in names)}\n" + (
        "print(*(m for m in sys.modules if m.partition('.')[0] in ('torch', 'numpy', 'plugins', 'cattrs')))"
    )
    said = python("-P", "-c", code, cwd=tmp_path)
    assert (said.returncode, said.stdout, said.stderr) == (0, "\n", "")


def whole(table: Table) -> None:
    """Every file that is visible is whole."""
    for path in table.root.rglob("[!.]*"):
        if path.parent.name == "planned" and path.is_file():
            Table(table.root).ids()
        elif path.is_file():
            load(path)


def flip(path: Path, at: int) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :])


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


def snapshot(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def die_at(k: int, calls: tuple[str, ...], step: Callable[[], object]) -> bool:
    """Whether a forked process that dies before its k-th call, while it does `step`, did die."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads beside a fork; the child calls os._exit
        pid = os.fork()
    if pid == 0:
        try:
            left = [k]
            for name in calls:
                setattr(os, name, dying(getattr(os, name), left))
            step()
            os._exit(0)
        except BaseException:  # noqa: BLE001 - nothing of a forked test may run on
            os._exit(3)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code in (0, 9)
    return code == 9


def dying(real: Callable, left: list[int]) -> Callable:
    """A call that ends the process where the count of calls comes to 0."""

    def counted(*args: object, **more: object) -> object:
        left[0] -= 1
        if left[0] == 0:
            os._exit(9)
        return real(*args, **more)

    return counted
