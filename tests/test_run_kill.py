"""A run that is killed, and the run that nobody disturbed."""

from __future__ import annotations

import json
import random
import signal
import subprocess
from pathlib import Path

import pytest

from small import SMALL, command, core, environment, same

ARGS = (
    *SMALL, "--attention=gated_headwise", "--ffn=moe4x2", "--ffn.jitter=0.1", "--train.steps=40",
    "--train.accumulate=2", "--train.checkpoint_every=7", "--train.validate_every=10", "--no-report", "-q",
)  # fmt: skip
KILLS = 5


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    done = core("run", *ARGS, "-o", "run", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "run"


@pytest.mark.slow
def test_killed_at_random_steps_the_same_command_ends_bit_identical(undisturbed: Path, tmp_path: Path) -> None:
    """SIGKILL at several random steps, the same command each time, ends with the bytes of an undisturbed run."""
    chance = random.Random(7)
    run = tmp_path / "run"
    seen = []
    for _ in range(KILLS):
        reached = _steps(run)
        target = reached + chance.randint(2, 9)
        process = subprocess.Popen(
            command("run", *ARGS, "-o", "run"),
            cwd=tmp_path,
            env=environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        _wait_for_step(run, target, process)
        process.kill()
        process.communicate()
        record = json.loads((run / "run.json").read_text())
        seen.append(process.returncode)
        if process.returncode == -signal.SIGKILL:
            assert record["status"] == "running"
    assert seen.count(-signal.SIGKILL) >= 3
    finished = core("run", *ARGS, "-o", "run", cwd=tmp_path)
    assert finished.returncode == 0, finished.stderr
    assert same(undisturbed, run) == []


@pytest.mark.slow
def test_resume_goes_on_from_anywhere_with_the_stored_configuration(undisturbed: Path, tmp_path: Path) -> None:
    """`core resume RUN` needs nothing but the directory."""
    process = subprocess.Popen(
        command("run", *ARGS, "-o", "run"),
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    _wait_for_step(tmp_path / "run", 17, process)
    process.kill()
    process.communicate()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    resumed = core("resume", str(tmp_path / "run"), "-q", cwd=elsewhere)
    assert resumed.returncode == 0, resumed.stderr
    assert same(undisturbed, tmp_path / "run") == []


@pytest.mark.slow
def test_an_interrupt_ends_in_a_checkpoint_and_goes_on(undisturbed: Path, tmp_path: Path) -> None:
    """Ctrl-C: exit 130, status `stopped`, no traceback; the same command then ends bit-identical."""
    process = subprocess.Popen(
        command("run", *ARGS[:-1], "-o", "run"),
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    _wait_for_step(tmp_path / "run", 5, process)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130, told
    assert "Traceback" not in told
    assert "goes on" in told
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["status"] == "stopped"
    assert not (tmp_path / "run" / "report.html").exists()
    finished = core("run", *ARGS, "-o", "run", cwd=tmp_path)
    assert finished.returncode == 0, finished.stderr
    assert same(undisturbed, tmp_path / "run") == []


def _steps(run: Path) -> int:
    path = run / "metrics.jsonl"
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    return max((json.loads(line)["step"] for line in lines if line), default=0)


def _wait_for_step(run: Path, step: int, process: subprocess.Popen) -> None:
    """Watch the run's own file grow: progress, not the clock, decides when to strike."""
    while process.poll() is None and _steps(run) < step:
        try:
            process.wait(timeout=0.01)
        except subprocess.TimeoutExpired:
            continue
