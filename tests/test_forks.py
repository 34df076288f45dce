"""Runs forked off a process that has its modules already are as good as processes of their own."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from core.kinds import Job, Running
from core.params import params
from core.study import forks as forking
from core.study.forks import COMMAND, LOST, Forks
from core.study.owner import process_start
from core.testing.outer import ExecutorLaws
from plugins.executors import local
from plugins.executors.local import Local

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def env(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """Variables with which a forked process finds `code_child`, and modules of the test's own."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(ROOT / "tests"), str(tmp_path)]))
    kept: list[Forks] = []
    monkeypatch.setattr(forking, "_latest", kept)
    monkeypatch.setattr(forking, "PRELOAD", ())
    monkeypatch.setattr(Forks.open.__func__, "__defaults__", ((),))
    yield dict(os.environ)
    for one in kept:
        one.retire()


@params
class ForkedCode(Local):
    """`python -c CODE` as a job that is forked off."""

    def start(self, job: Job, output: Path, place: int) -> Running:
        words = (*COMMAND, "code_child", *job.argv[2:])
        running = super().start(Job(name=job.name, argv=words, env=job.env), output, place)
        assert type(running).__name__ == "_Forked"
        return running


@pytest.mark.usefixtures("env")
@pytest.mark.parametrize("executor", [ForkedCode(slots=1), ForkedCode(slots=3)], ids=repr)
class TestForked(ExecutorLaws):
    pass


def until(condition: Callable[[], bool]) -> None:
    while not condition():
        os.sched_yield()


class Jobs:
    """Jobs of one forking process, each with a file for its output."""

    def __init__(self, env: dict[str, str], folder: Path, preload: tuple[str, ...] = ()) -> None:
        self.env, self.folder, self.forks = env, folder, Forks.open(env, preload)

    def start(self, code: str, *words: str, **more: str) -> int:
        with (self.folder / f"out{len(self.forks.jobs)}").open("ab") as out:
            return self.forks.start(["code_child", code, *words], {**self.env, **more}, out.fileno())

    def end(self, job: int) -> int:
        until(lambda: self.forks.poll(job) is not None)
        code = self.forks.poll(job)
        assert code is not None
        return code

    def said(self, job: int) -> str:
        return (self.folder / f"out{job}").read_text()


@pytest.fixture
def jobs(env: dict[str, str], tmp_path: Path) -> Iterator[Jobs]:
    made = Jobs(env, tmp_path)
    yield made
    made.forks.retire()


def test_each_is_itself(jobs: Jobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Arguments, variables, folder and session are the job's own; what one does to its interpreter no other sees."""
    code = (
        "import os, sys; sys.path.append('mine'); os.environ.pop('ONCE', None)\n"
        "print(sys.argv[1:], os.environ.get('ONCE'), os.getcwd(), os.getsid(0) == os.getpid(), sys.path.count('mine'))"
    )
    (tmp_path / "a").mkdir()
    for folder, once in (("a", "1"), (".", "")):
        monkeypatch.chdir(tmp_path / folder)
        job = jobs.start(code.replace("os.environ.pop('ONCE', None)", "0"), "x y", "\N{SNOWMAN}", ONCE=once)
        assert jobs.end(job) == 0
        assert jobs.said(job) == f"['x y', '\N{SNOWMAN}'] {once} {(tmp_path / folder).resolve()} True 1\n"


def test_an_end_runs_what_ends_an_interpreter(jobs: Jobs) -> None:
    """Exit handlers are called and output is flushed; a traceback goes to the job's output, with status 1."""
    job = jobs.start("import atexit; atexit.register(print, 'last'); print('first')")
    assert (jobs.end(job), jobs.said(job)) == (0, "first\nlast\n")
    job = jobs.start("raise ValueError('of its own')")
    assert jobs.end(job) == 1
    assert jobs.said(job).endswith("ValueError: of its own\n")


def test_what_is_imported_first_is_there_already(env: dict[str, str], tmp_path: Path) -> None:
    """Modules are imported once and shared; one that cannot be imported is left to the job."""
    (tmp_path / "slow_one.py").write_text("import os\nowner = os.getpid()\n")
    jobs = Jobs(env, tmp_path, ("no_such_module", "slow_one"))
    code = "import os, slow_one; print(slow_one.owner, os.getppid(), os.getpid())"
    first, second = jobs.start(code), jobs.start(code)
    assert jobs.end(first) == jobs.end(second) == 0
    owner, parent, pid = jobs.said(first).split()
    assert owner == parent != pid
    assert jobs.said(second).split()[:2] == [owner, parent]
    jobs.forks.retire()


def test_code_that_changed_is_imported_anew(env: dict[str, str], tmp_path: Path) -> None:
    """A run is of the code that lies on the disk, also where it was edited after the first; what runs goes on."""
    module = tmp_path / "edited.py"
    module.write_text("text = 'old'\n")
    jobs = Jobs(env, tmp_path, ("edited",))
    waits = "import edited, pathlib, os\nwhile not pathlib.Path('go').exists(): os.sched_yield()\nprint(edited.text)"
    running = jobs.start(waits.replace("'go'", repr(str(tmp_path / "go"))))
    until(lambda: jobs.forks.poll(running) is None and jobs.forks.jobs[running].pid is not None)
    module.write_text("text = 'newer'\n")
    job = jobs.start("import edited; print(edited.text)")
    assert (jobs.end(job), jobs.said(job)) == (0, "newer\n")
    (tmp_path / "go").touch()
    assert (jobs.end(running), jobs.said(running)) == (0, "old\n")
    jobs.forks.retire()


def test_the_forking_process_dies(jobs: Jobs, tmp_path: Path) -> None:
    """What it forked goes on, is known to run and to have ended, and can be ended; further jobs start elsewhere."""
    says = "import os, signal; print(os.getpid(), os.getppid(), flush=True); signal.pause()"
    job = jobs.start(says)
    # Were it to die between a fork and its message, nobody would know of the job.
    until(lambda: jobs.forks.poll(job) is None and bool(jobs.forks.jobs[job].pid) and jobs.said(job).endswith("\n"))
    pid, parent = map(int, jobs.said(job).split())
    os.kill(parent, signal.SIGKILL)
    until(lambda: not process_start(parent))
    assert jobs.forks.poll(job) is None
    with pytest.raises(OSError):
        until(lambda: jobs.start("pass") < 0)
    jobs.forks.send_signal(job, signal.SIGTERM)
    assert jobs.end(job) == LOST
    assert not process_start(pid)
    jobs.forks.send_signal(job, signal.SIGTERM)


def test_a_caller_that_dies_leaves_its_jobs_at_work(env: dict[str, str], tmp_path: Path) -> None:
    """Nobody hears of their end, but they come to it; the forking process goes with the last."""
    waits = (
        "import os, pathlib\nprint(os.getpid(), os.getppid(), flush=True)\n"
        f"while not pathlib.Path({str(tmp_path / 'go')!r}).exists(): os.sched_yield()\n"
        f"pathlib.Path({str(tmp_path / 'done')!r}).touch()"
    )
    jobs = Jobs(env, tmp_path)
    job = jobs.start(waits)
    until(lambda: jobs.said(job).endswith("\n"))
    pid, parent = map(int, jobs.said(job).split())
    jobs.forks.channel.close()
    (tmp_path / "go").touch()
    until(lambda: not process_start(pid) and not process_start(parent))
    assert (tmp_path / "done").exists()


def test_other_commands_and_other_systems_start_as_ever(
    env: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only `python -P -m` is forked off, where the system can and nobody asked otherwise; the outcome is the same."""
    argv = (*COMMAND, "code_child", "print('here')")
    kinds = []
    for executor, words in ((Local(), argv), (Local(warm=False), argv), (Local(), (sys.executable, "-c", argv[-1]))):
        kinds.append(_kind(executor, words, tmp_path))
    monkeypatch.setattr(local, "available", lambda: False)
    kinds.append(_kind(Local(), argv, tmp_path))
    monkeypatch.undo()
    assert kinds == ["_Forked", "_Process", "_Process", "_Process"]


def _kind(executor: Local, words: tuple[str, ...], folder: Path) -> str:
    output = folder / "kind"
    output.unlink(missing_ok=True)
    running = executor.start(Job(name="x", argv=words), output, 0)
    until(lambda: running.poll() is not None)
    assert (running.poll(), output.read_text()) == (0, "here\n")
    return type(running).__name__
