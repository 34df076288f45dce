"""What the executors divide, and what they say where they cannot be used; the laws are in test_outer_pieces."""

from __future__ import annotations

import os
import sys
from collections import Counter
from pathlib import Path

import pytest

from core.errors import UserError
from core.kinds import Job
from core.study.output import cut, end_of
from core.study.pool import run_all
from core.study.runner import Runner
from core.study.table import Table
from core.study.task import Event
from plugins.executors.local import Local
from plugins.executors.ray import Ray
from plugins.executors.submitit import Submitit
from study_child import command, environment
from tests.fakes import python

SHARE = "import os; print(os.environ.get('OMP_NUM_THREADS'), os.environ.get('CUDA_VISIBLE_DEVICES'))"


def shares(executor: Local, tmp_path: Path) -> list[str]:
    """What a job in each place sees of threads and GPUs."""
    said = []
    for place in range(executor.capacity()):
        output = tmp_path / str(place)
        output.unlink(missing_ok=True)
        running = executor.start(Job(name="share", argv=(sys.executable, "-S", "-c", SHARE)), output, place)
        while running.poll() is None:
            os.sched_yield()
        said.append(output.read_text().strip())
    return said


class TestLocal:
    """Cores and GPUs are divided over places."""

    @pytest.fixture(autouse=True)
    def eight_cores(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: range(8))
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        monkeypatch.setattr("plugins.executors.local._gpus", lambda: 5)

    def test_one_place_takes_the_machine_as_it_is(self, tmp_path: Path) -> None:
        """With one run at a time nothing is set."""
        assert shares(Local(), tmp_path) == ["None None"]

    def test_places_share_cores(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Eight cores over three places are two threads each; what the user set is left alone."""
        assert shares(Local(slots=3), tmp_path) == ["2 None"] * 3
        monkeypatch.setenv("OMP_NUM_THREADS", "5")
        assert shares(Local(slots=2), tmp_path) == ["5 None"] * 2
        assert shares(Local(slots=2, threads=3), tmp_path) == ["3 None"] * 2

    def test_auto(self) -> None:
        """A place for each GPU, else for each `threads` cores."""
        assert Local(slots="auto").capacity() == 8
        assert Local(slots="auto", threads=3).capacity() == 2
        assert Local(slots="auto", threads=30).capacity() == 1
        assert Local(slots="auto", gpus=(0, 1)).capacity() == 2

    def test_places_share_gpus(self, tmp_path: Path) -> None:
        """More GPUs than places: several each, none twice. Fewer: they are shared in turn."""
        assert shares(Local(slots=2, threads=1, gpus=(0, 1, 2)), tmp_path) == ["1 0,2", "1 1"]
        assert shares(Local(slots=3, threads=1, gpus=(4, "GPU-a")), tmp_path) == ["1 4", "1 GPU-a", "1 4"]

    def test_gpus_that_are_not_there(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Refused before anything is started: a run would take the CPU, and be another run, without a word."""
        with pytest.raises(UserError, match=r"^E-NOSLOT: GPU 5 is not there: this machine shows 5 GPUs"):
            Local(gpus=(0, 5)).capacity()
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "6,7")
        assert Local(gpus=(6, 7), slots="auto").capacity() == 2
        monkeypatch.setattr("plugins.executors.local._gpus", lambda: 0)
        for gpus in ((0,), ("GPU-a",)):
            with pytest.raises(UserError, match=r"this machine shows no GPU\. Nothing was started"):
                Local(gpus=gpus).capacity()

    def test_a_command_that_is_not_there(self, tmp_path: Path) -> None:
        """The user's mistake, named; nothing is left running."""
        with pytest.raises(UserError, match="/no/such cannot be started"):
            list(run_all(Local(), [Job(name="x", argv=("/no/such",))]))


@pytest.mark.parametrize(
    ("executor", "extra"), [(Submitit(), "cellcore[slurm]"), (Ray(slots=1), "cellcore[ray]")], ids=["submitit", "ray"]
)
def test_a_library_that_is_missing_is_named(
    executor: Submitit | Ray, extra: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without its library an executor says which extra brings it."""
    monkeypatch.setitem(sys.modules, "submitit", None)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError) as caught:
        executor.start(Job(name="x", argv=("true",)), tmp_path / "o", 0)
    assert extra in str(caught.value)


def test_listing_executors_imports_no_engine(tmp_path: Path) -> None:
    """Their classes are loaded without submitit and ray."""
    code = (
        "import sys, plugins.executors.submitit, plugins.executors.ray\n"
        "print(*{m.partition('.')[0] for m in sys.modules} & {'submitit', 'ray'})"
    )
    said = python("-P", "-c", code, cwd=tmp_path)
    assert (said.returncode, said.stdout) == (0, "\n")


def test_a_study_through_an_executor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real executors run a study's trials as the runner asks."""
    monkeypatch.setenv("PYTHONPATH", environment()["PYTHONPATH"])
    for name, executor in {"local": Local(slots=2), "submitit": Submitit(cluster="local", slots=2)}.items():
        table = Table.create(tmp_path / name)
        table.add([{"seed": 1}, {"seed": 2}, {"does": "segfault"}])
        events: list[Event] = []
        runner = Runner(table, executor, lambda trial, table=table: command(table, trial), tell=events.append)
        assert runner.run() == 3
        assert Counter(e.kind for e in events) == {"started": 4, "done": 2, "crashed": 2}
        assert {e.code for e in events if e.kind == "crashed"} == {-11}
        assert {e.text for e in events if e.kind == "crashed"} == {"ended by SIGSEGV"}


def test_output_is_cut_to_its_ends(tmp_path: Path) -> None:
    """The beginning and the end are kept, what is between is counted, and writing goes on behind."""
    path = tmp_path / "output"
    path.write_bytes(b"a" * 100 + b"b" * 1000 + b"c" * 100)
    handle = os.open(path, os.O_RDWR | os.O_APPEND)
    assert cut(handle, limit=400) == 1000
    with path.open("ab") as writer:
        writer.write(b"more")
    text = path.read_text()
    assert text.startswith("a" * 100 + "\n[... 1000 bytes of output were dropped")
    assert text.endswith("c" * 100 + "more")
    assert cut(handle, limit=400) == 0
    os.close(handle)
    assert end_of(path, 6) == "ccmore"
    assert end_of(tmp_path / "nothing") == ""
