"""A study from its command to its report, in processes of its own: run, run again, killed, interrupted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.study.folder import read
from core.study.table import Table
from core.study.trial import State
from small import SMALL, command, core, environment

WORDS = (
    "ablate", "--ffn", "dense,moe4x2", "--seeds", "2", *SMALL, "--train.steps=4", "--slots", "1", "--threads", "1",
    "-o", "study",
)  # fmt: skip


def files(root: Path) -> dict[str, tuple[bytes, int]]:
    """Bytes and time of change of every file, but what runners say of themselves."""
    return {
        str(path.relative_to(root)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.relative_to(root).parts[0] != "runners"
    }


def metrics(root: Path) -> dict[str, object]:
    """What every trial came to."""
    table = Table(root)
    return {name: table.result(name).metrics for name in table.ids()}


def reported(root: Path) -> dict[str, bytes]:
    """The numbers of the report, without the seconds and bytes that differ from one execution to the next."""
    found = {}
    for path in root.rglob("*.json"):
        if "report" in str(path.relative_to(root)) and path.is_file():
            doc = json.loads(path.read_text("utf-8"))
            if isinstance(doc, dict) and "systems" in doc:
                for system in doc["systems"]:
                    for arm in system["arms"]:
                        arm["cost"] = None
                found["findings"] = json.dumps([doc[key] for key in ("plan", "counts", "systems", "seeds")]).encode()
    return found


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The study as nobody disturbed it."""
    folder = tmp_path_factory.mktemp("unbroken")
    done = core(*WORDS, cwd=folder, timeout=600)
    assert done.returncode == 0, done.stderr
    assert {Table(folder / "study").look(t).state for t in Table(folder / "study").ids()} == {State.DONE}
    return folder / "study"


class Runner:
    """The command in a session of its own, read line by line."""

    def __init__(self, cwd: Path) -> None:
        self.process = subprocess.Popen(
            command(*WORDS), cwd=cwd, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
            start_new_session=True,
        )  # fmt: skip
        self.lines: list[str] = []

    def until_done(self, more: int) -> None:
        """Read until so many more trials are done."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line)
            more -= " done " in line
            if not more:
                return
        raise AssertionError(f"the runner ended early: {''.join(self.lines)}")

    def end(self, how: signal.Signals) -> int:
        self.process.send_signal(how)
        assert self.process.stderr is not None
        self.lines += self.process.stderr.readlines()
        self.process.stderr.close()
        return self.process.wait()


@pytest.fixture
def children(tmp_path: Path) -> Iterator[None]:
    """A child outlives a runner that was killed; none outlives the test."""
    yield
    for claim in tmp_path.rglob("claim.*"):
        owner = json.loads(claim.read_text())["body"]["owner"]["pid"]
        line = Path(f"/proc/{owner}/cmdline")
        if line.exists() and str(tmp_path).encode() in line.read_bytes():
            os.kill(owner, signal.SIGKILL)


@pytest.mark.slow
def test_a_finished_study_is_left_alone(unbroken: Path) -> None:
    """The same command again starts no process and changes no byte; it reports the same and ends the same."""
    before = files(unbroken)
    again = core(*WORDS, cwd=unbroken.parent, timeout=600)
    assert again.returncode == 0, again.stderr
    assert " done " not in again.stderr
    after = files(unbroken)
    assert after.keys() == before.keys()
    assert [name for name, (data, _) in before.items() if after[name][0] != data] == []
    assert core("ablate", "status", "study", cwd=unbroken.parent).returncode == 0


@pytest.mark.slow
@pytest.mark.usefixtures("children")
def test_a_study_that_was_killed_and_interrupted_ends_as_an_unbroken_one(unbroken: Path, tmp_path: Path) -> None:
    """SIGKILL of the runner, then Ctrl-C once (130, and how to go on), then the same command: the same results."""
    killed = Runner(tmp_path)
    killed.until_done(1)
    assert killed.end(signal.SIGKILL) == -signal.SIGKILL
    interrupted = Runner(tmp_path)
    interrupted.until_done(1)
    assert interrupted.end(signal.SIGINT) == 130
    assert "interrupted; the same command, or `core ablate work study`, goes on" in interrupted.lines[-1]
    table = Table(tmp_path / "study")  # on a busy machine the killed runner's child may have ended the last trial
    whole = all(table.look(name).state is State.DONE for name in table.ids())
    assert core("ablate", "status", "study", cwd=tmp_path).returncode == (0 if whole else 3)
    done = core(*WORDS, cwd=tmp_path, timeout=600)
    assert done.returncode == 0, done.stderr
    root = tmp_path / "study"
    assert metrics(root) == metrics(unbroken)
    assert reported(root) == reported(unbroken) != {}
    assert read(root).hash == read(unbroken).hash
