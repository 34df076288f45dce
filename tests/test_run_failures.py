"""What happens to a run directory when things go wrong."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import anndata
import numpy as np
import pytest
import torch
from torch import nn

import core.train.checkpoint as checkpoint
from core.cli import main
from core.errors import RunFailed
from core.train.guard import name_culprit
from small import SMALL, command, core, environment, same

ARGS = (*SMALL, "--train.steps=8", "--train.checkpoint_every=3", "--no-report", "-q")


def status(run: Path) -> str:
    return json.loads((run / "run.json").read_text())["status"]


def test_a_full_disk_fails_the_run_keeps_the_last_checkpoint_and_the_rerun_finishes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """A writer that raises at the second checkpoint: exit 1, status `failed`, nothing half-written, a rerun goes on."""
    monkeypatch.chdir(tmp_path)
    assert main(["run", *ARGS, "-o", "whole"]) == 0
    real, calls = checkpoint.save_file, []

    def full(tensors: dict, path: Path) -> None:
        calls.append(path)
        if len(calls) > 2:
            Path(path).write_bytes(b"half")
            raise OSError(28, "No space left on device")
        real(tensors, path)

    monkeypatch.setattr(checkpoint, "save_file", full)
    assert main(["run", *ARGS, "-o", "run"]) == 1
    told = capsys.readouterr().err
    assert "No space left on device" in told
    assert "step 3 stands" in told
    assert status(tmp_path / "run") == "failed"
    assert not (tmp_path / "run" / "report.html").exists()
    assert [p.name for p in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-00000003"]
    monkeypatch.setattr(checkpoint, "save_file", real)
    assert main(["run", *ARGS, "-o", "run"]) == 0
    assert status(tmp_path / "run") == "done"
    assert same(tmp_path / "whole", tmp_path / "run") == []


@pytest.mark.slow
@pytest.mark.parametrize("blocks", [24, 64, 400])
def test_a_file_size_limit_of_the_kernel_is_a_clean_failure(tmp_path: Path, blocks: int) -> None:
    """`ulimit -f` makes the real write fail: exit 1, no traceback, no run that pretends to be complete."""
    words = " ".join(
        f"'{w}'" for w in command("run", *(w for w in ARGS if "width" not in w), "--width=64", "-o", "run")
    )
    limited = subprocess.run(
        ["bash", "-c", f"ulimit -f {blocks}; exec {words}"],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert limited.returncode == 1, limited.stderr
    assert "Traceback" not in limited.stderr
    assert "could not be written" in limited.stderr
    assert status(tmp_path / "run") == "failed"
    assert list((tmp_path / "run" / "checkpoints").iterdir()) == []


def test_a_loss_that_is_not_finite_names_the_first_module() -> None:
    """The guard names the first module in order of execution whose output is not finite."""

    class Bad(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x / 0.0

    model = nn.Sequential(nn.Linear(3, 3), Bad(), nn.Linear(3, 1))
    x = torch.ones(2, 3)
    failure = name_culprit(model, [lambda: model(x).sum()], 5)
    assert isinstance(failure, RunFailed)
    assert "step 5: the output of 1 (Bad) is not finite" in str(failure)


def test_a_gradient_that_is_not_finite_names_the_parameter() -> None:
    """With a finite forward pass the guard looks at gradients."""
    model = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        model.weight.zero_()
    failure = name_culprit(model, [lambda: model(torch.ones(1, 2)).sqrt().sum()], 9)
    assert "the gradient of weight is not finite" in str(failure)


def test_a_gradient_that_one_of_several_batches_ruins_is_found() -> None:
    """Where a step has several batches, the guard repeats all of them: the first may be the bad one."""
    model = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        model.weight.zero_()
    ruined, sound = (lambda: model(torch.ones(1, 2)).sqrt().sum()), (lambda: model(torch.ones(1, 2)).sum())
    assert "the gradient of weight is not finite" in str(name_culprit(model, [ruined, sound], 9))


def test_a_diverging_run_ends_with_the_module_named_and_marked_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """An absurd learning rate: exit 1, the module named, status `failed`."""
    monkeypatch.chdir(tmp_path)
    code = main(["run", *SMALL, "--train.lr=1e30", "--train.clip=0", "--train.steps=30", "-q", "-o", "run"])
    told = capsys.readouterr().err
    assert code == 1
    assert "not finite" in told
    assert "--train.lr" in told
    assert status(tmp_path / "run") == "failed"


def test_directories_that_cannot_be_used_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """A file in the way, strangers in the folder, another run: exit 2 and a way out."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("x")
    assert main(["run", *ARGS, "-o", "file/run"]) == 2
    assert "choose another with -o" in capsys.readouterr().err
    (tmp_path / "strangers").mkdir()
    (tmp_path / "strangers" / "thesis.tex").write_text("x")
    assert main(["run", *ARGS, "-o", "strangers"]) == 2
    assert "thesis.tex" in capsys.readouterr().err
    assert [p.name for p in (tmp_path / "strangers").iterdir()] == ["thesis.tex"]
    assert main(["run", *ARGS, "-o", "run"]) == 0
    capsys.readouterr()
    assert main(["run", *ARGS, "--train.lr=5e-4", "-o", "run"]) == 2
    assert "train.lr is 0.001 there and 0.0005 here" in capsys.readouterr().err
    assert status(tmp_path / "run") == "done"


@pytest.mark.slow
def test_two_processes_never_share_a_run_directory(tmp_path: Path) -> None:
    """The second one is refused while the first one runs."""
    long = [*SMALL, "--train.steps=100000", "-q", "-o", "run"]
    first = subprocess.Popen(command("run", *long), cwd=tmp_path, env=environment(), stderr=subprocess.DEVNULL)
    while not (tmp_path / "run" / "metrics.jsonl").exists() and first.poll() is None:
        try:
            first.wait(timeout=0.01)
        except subprocess.TimeoutExpired:
            continue
    second = core("run", *long, cwd=tmp_path)
    first.kill()
    first.wait()
    assert second.returncode == 2
    assert "in use by another process" in second.stderr


def test_a_damaged_checkpoint_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """A truncated file inside a checkpoint is a clear failure, not a fresh start in silence."""
    monkeypatch.chdir(tmp_path)
    assert main(["run", *ARGS, "-o", "run"]) == 0
    newest = max((tmp_path / "run" / "checkpoints").iterdir())
    (newest / "trainer.pt").write_bytes(b"half")
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    (tmp_path / "run" / "run.json").write_text(json.dumps(record | {"status": "running"}))
    capsys.readouterr()
    assert main(["run", *ARGS, "-o", "run"]) == 1
    assert f"{newest.name}" in capsys.readouterr().err


DAMAGE = {
    "evaluation.json": (b"", b"x", b"{}", b"[]", b"\xff\xfe"),
    "evaluation.npz": (b"", b"PK\x03\x04", b"no archive of arrays"),
    "gates.json": (b"x", b"\xff"),
    "metrics.jsonl": (b"x\n", b"\xff\n"),
}


def test_a_report_of_damaged_numbers_is_refused_in_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Whatever of a run's numbers is damaged is named, and with them restored the report is drawn."""
    run = tmp_path / "run"
    assert main(["run", *ARGS, "-o", str(run)]) == 0
    for name, contents in DAMAGE.items():
        whole = (run / name).read_bytes()
        for content in contents:
            (run / name).write_bytes(content)
            capsys.readouterr()
            assert main(["report", str(run)]) == 2, (name, content)
            told = capsys.readouterr().err
            assert name in told
            assert "damaged" in told
            assert told.count("\n") == 1
        (run / name).write_bytes(whole)
    assert main(["report", str(run)]) == 0


@pytest.mark.slow
def test_force_takes_no_directory_from_a_live_run(tmp_path: Path) -> None:
    """--force is refused while the run goes on, and the live run is left as it was."""
    long = [*SMALL, "--train.steps=100000", "-q", "-o", "run"]
    first = subprocess.Popen(command("run", *long), cwd=tmp_path, env=environment(), stderr=subprocess.DEVNULL)
    while not (tmp_path / "run" / "metrics.jsonl").exists() and first.poll() is None:
        try:
            first.wait(timeout=0.01)
        except subprocess.TimeoutExpired:
            continue
    second = core("run", *ARGS, "-o", "run", "--force", cwd=tmp_path)
    alive = first.poll() is None
    first.kill()
    first.wait()
    assert alive
    assert second.returncode == 2
    assert "in use by another process" in second.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


def test_folders_that_are_no_runs_are_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """A user's own files, one called `lock` among them, are neither moved nor deleted, with --force or without."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lock").write_text("mine")
    (tmp_path / "paper.txt").write_text("mine")
    for words in ([], ["--force"]):
        assert main(["run", *ARGS, "-o", ".", *words]) == 2
        assert "paper.txt" in capsys.readouterr().err
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"lock": "mine", "paper.txt": "mine"}


def test_weights_that_are_not_finite_never_reach_the_evaluation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """A last step that ruins the weights is noticed at its validation."""
    monkeypatch.chdir(tmp_path)
    words = [w for w in SMALL if "warmup" not in w]
    assert main(["run", *words, "--train.steps=1", "--train.lr=1e30", "--train.warmup=0", "-q", "-o", "run"]) == 1
    assert "not finite" in capsys.readouterr().err
    assert status(tmp_path / "run") == "failed"


def test_a_stored_run_whose_piece_is_gone_names_the_distribution(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """What a missing package brought is told as that, not as an unknown parameter."""
    monkeypatch.chdir(tmp_path)
    assert main(["run", *ARGS, "-o", "run"]) == 0
    parts = tmp_path / "run" / "parts.toml"
    parts.write_text(parts.read_text().replace('"gate"\nname = "cellcore/none"', '"gate"\nname = "acme-gates/swish"'))
    assert main(["resume", "-q", "run"]) == 2
    said = capsys.readouterr().err
    assert "attention.gate = acme-gates/swish of acme-gates" in said
    assert "pip install acme-gates==" in said


def test_a_stored_run_goes_on_with_data_that_were_moved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """The error says how to tell the new place; the same content is taken from there, and other settings are not."""
    monkeypatch.chdir(tmp_path)
    write_cells(tmp_path / "here.h5ad")
    words = [w for w in ARGS if not w.startswith(("--data.cells", "--data.genes", "--data.types"))]
    assert main(["run", "--data=here.h5ad", *words, "-o", "run"]) == 0
    (tmp_path / "here.h5ad").rename(tmp_path / "there.h5ad")
    assert main(["resume", "-q", "run"]) == 2
    assert "`core resume run --data FILE` says where they are" in capsys.readouterr().err
    assert main(["resume", "-q", "run", "--data", "there.h5ad"]) == 0
    assert main(["resume", "-q", "run", "--data", "there.h5ad", "--seed", "4"]) == 2
    assert "seed = 4 (CLI --seed) would make another run, as it was 0" in capsys.readouterr().err


def write_cells(path: Path) -> None:
    """Eighty cells with positions."""
    rng = np.random.default_rng(0)
    data = anndata.AnnData(rng.poisson(2.0, (80, 6)).astype(np.float32))
    data.obsm["spatial"] = rng.uniform(0, 9, (80, 2))
    data.write_h5ad(path)


def test_a_stored_run_does_not_listen_to_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """`core resume` and `core report` read the directory alone."""
    monkeypatch.chdir(tmp_path)
    assert main(["run", *ARGS, "-o", "run"]) == 0
    monkeypatch.setenv("CORE_SEED", "3")
    assert main(["resume", "-q", "run"]) == 0
    assert main(["report", "run"]) == 0
    assert "ridge" in capsys.readouterr().out
