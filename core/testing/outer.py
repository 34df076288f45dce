"""What trackers, executors and strategies must do.

@pytest.mark.parametrize("tracker", [Jsonl()])
class TestTrackers(TrackerLaws):
    def read(self, directory): ...
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from core.errors import UserError
from core.kinds import Executor, Job, Running, Strategy, Tracker
from core.study.owner import process_start
from core.study.pool import run_all
from core.testing.draws import law


class TrackerLaws:
    """Laws of `core.kinds.tracker.Tracker`; parametrise a subclass over `tracker` and say how it is read back."""

    def read(self, directory: Path) -> list[tuple[int, dict[str, float]]]:
        """(step, numbers) of every line of a finished track, in order."""
        raise NotImplementedError

    def tear(self, directory: Path) -> None:
        """Leave the track as a kill in the middle of a line would."""
        raise NotImplementedError

    @law
    @given(
        steps=st.lists(st.integers(0, 50), min_size=1, max_size=20).map(sorted),
        at=st.integers(0, 50),
        torn=st.booleans(),
    )
    def test_reopening(self, tracker: Tracker, steps: list[int], at: int, torn: bool) -> None:
        """What was logged is read back in order; reopened at a step, later lines and a torn one are forgotten."""
        with tempfile.TemporaryDirectory() as folder:
            track = tracker.start(Path(folder), 0)
            for step in steps:
                track.log(step, {"train/loss": step / 7})
            track.finish()
            assert self.read(Path(folder)) == [(s, {"train/loss": s / 7}) for s in steps]
            if torn:
                self.tear(Path(folder))
            again = tracker.start(Path(folder), at)
            again.log(at + 1, {"train/loss": 0.5})
            again.finish()
            kept = [(s, {"train/loss": s / 7}) for s in steps if s <= at]
            assert self.read(Path(folder)) == [*kept, (at + 1, {"train/loss": 0.5})]


class ExecutorLaws:
    """Laws of `core.kinds.executor.Executor`; parametrise a subclass over `executor`.

    An engine that is not here (a library, a cluster) is said to be missing, in words; all else is then not asked.
    """

    def test_every_job_is_reported_once(self, executor: Executor, tmp_path: Path) -> None:
        """Output and exit status of each job come back, failures and signals included."""
        if not _usable(executor, tmp_path):
            return
        codes = {"fine": "print('hello')", "fails": "raise SystemExit(3)", "dies": "import os; os.kill(os.getpid(), 9)"}
        jobs = [Job(name=n, argv=(sys.executable, "-c", c)) for n, c in codes.items()]
        ended = list(run_all(executor, jobs))
        assert sorted(f.job.name for f in ended) == sorted(codes)
        assert {f.job.name: f.code for f in ended} == {"fine": 0, "fails": 3, "dies": -9}
        assert next(f for f in ended if f.job.name == "fine").output == "hello\n"

    def test_leaving_early_stops_what_runs(self, executor: Executor, tmp_path: Path) -> None:
        """Closing the iterator ends running jobs; the call returns only when none is left."""
        if not _usable(executor, tmp_path):
            return
        forever = "import os, signal, sys; open(sys.argv[1], 'w').write(str(os.getpid())); signal.pause()"
        jobs = [Job(name="quick", argv=(sys.executable, "-c", "pass"))]
        jobs += [Job(name=f"slow {i}", argv=(sys.executable, "-c", forever, str(tmp_path / str(i)))) for i in range(3)]
        ends = run_all(executor, jobs)
        assert next(ends).job.name == "quick"
        ends.close()  # type: ignore[attr-defined]
        for path in tmp_path.glob("[0-9]"):
            assert not _lives(int(path.read_text() or 0))

    def test_a_job_gets_its_variables_and_prints_to_its_file(self, executor: Executor, tmp_path: Path) -> None:
        """Variables of the job are beside the caller's; what it prints is appended to the file, both streams."""
        if not _usable(executor, tmp_path):
            return
        said = "import os, sys; print(os.environ['MINE'], flush=True); print(bool(os.environ['PATH']), file=sys.stderr)"
        output = tmp_path / "output"
        output.write_text("before\n")
        job = Job(name="says", argv=(sys.executable, "-c", said), env={"MINE": "yes"})
        assert executor.capacity() >= 1
        assert _end(executor.start(job, output, 0)) == 0
        assert output.read_text() == "before\nyes\nTrue\n"

    def test_asked_to_end_it_may_tidy_up(self, executor: Executor, tmp_path: Path) -> None:
        """`terminate` is SIGTERM, which a job may answer; asking again, or after the end, changes nothing."""
        if not _usable(executor, tmp_path):
            return
        tidy = "import signal, sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit(7)); print('up', flush=True)"
        output = tmp_path / "output"
        running = executor.start(Job(name="tidy", argv=(sys.executable, "-c", f"{tidy}; signal.pause()")), output, 0)
        _until(lambda: output.exists() and output.read_text() == "up\n")
        assert running.poll() is None
        running.terminate()
        assert _end(running) == 7
        running.terminate()
        running.kill()
        assert running.poll() == 7

    def test_killed_it_ends_with_what_it_started(self, executor: Executor, tmp_path: Path) -> None:
        """`kill` needs no consent, and reaches the processes that the job has started."""
        if not _usable(executor, tmp_path):
            return
        stubborn = (
            "import os, signal, subprocess, sys; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
            "child = subprocess.Popen([sys.executable, '-c', 'import signal; signal.pause()'])\n"
            "print(os.getpid(), child.pid, flush=True); signal.pause()"
        )
        output = tmp_path / "output"
        running = executor.start(Job(name="stubborn", argv=(sys.executable, "-c", stubborn)), output, 0)
        _until(lambda: output.exists() and output.read_text().endswith("\n"))
        running.kill()
        assert _end(running) < 0
        _until(lambda: not any(_lives(int(pid)) for pid in output.read_text().split()))


def _usable(executor: Executor, folder: Path) -> bool:
    """Whether a job can be started here; where it cannot, a `UserError` says why and what to do or ask for."""
    (folder / "trial").mkdir(exist_ok=True)
    job = Job(name="try", argv=(sys.executable, "-c", "pass"))
    try:
        if not executor.capacity():
            return False
        running = executor.start(job, folder / "trial" / "output", 0)
    except UserError as error:
        why = str(error)
    else:
        assert _end(running) == 0, "a command that does nothing ended badly"
        return True
    assert len(why.split()) > 3, f"{why!r} tells a user too little"
    return False


def _end(running: Running) -> int:
    _until(lambda: running.poll() is not None)
    code = running.poll()
    assert code is not None
    return code


def _until(ready: Callable[[], object]) -> None:
    """Wait for a process; an engine may take seconds to start one."""
    give_up = time.monotonic() + 120
    while not ready():
        assert time.monotonic() < give_up, "the job did nothing for two minutes"
        time.sleep(0.01)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return not Path("/proc").exists() or process_start(pid) != ""


class StrategyLaws:
    """Laws of `core.kinds.strategy.Strategy` in one process; parametrise a subclass over `strategy`."""

    def test_devices(self, strategy: Strategy) -> None:
        """The CPU is always there; a device or an extra that is not is the user's mistake, with a way out."""
        lacking = ""
        try:
            assert strategy.device("cpu").type == "cpu"
        except UserError as error:
            lacking = str(error)
        if lacking:
            assert "pip install" in lacking
            return
        if torch.cuda.is_available():
            assert strategy.device("cuda").type == "cuda"
        else:
            assert strategy.device("auto").type == "cpu"
            with pytest.raises(UserError, match="--device cpu"):
                strategy.device("cuda")

    def test_a_wrapped_model_trains_as_it_would_alone(self, strategy: Strategy) -> None:
        """Wrapping changes neither outputs nor gradients, and the gathered state is the model's."""
        alone, wrapped = nn.Linear(3, 2), nn.Linear(3, 2)
        wrapped.load_state_dict(alone.state_dict())
        x = torch.linspace(-1, 1, 12).view(4, 3)
        alone(x).square().mean().backward()
        called = strategy.wrap(wrapped)
        strategy.backward(called, called(x).square().mean())
        for one, other in zip(alone.parameters(), wrapped.parameters(), strict=True):
            assert torch.equal(one.grad, other.grad)  # type: ignore[arg-type]
        state = strategy.gather(wrapped)
        assert state.keys() == wrapped.state_dict().keys()
        assert all(torch.equal(state[k], v) and state[k].device.type == "cpu" for k, v in wrapped.state_dict().items())
        assert strategy.main()
