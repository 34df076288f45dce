"""Several processes that share each batch take the steps of one."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st

from core.cli import main
from core.cli.choose import resolve_run
from core.errors import UserError
from core.identity import run_identity
from core.train.checkpoint import Checkpoint, latest, load
from core.train.loop import Listener, Trainer
from core.train.progress import Silent
from core.train.ranks import Share, joined
from core.train.rundir import RunDir
from plugins.strategies.fsdp2 import Fsdp2
from plugins.trackers.jsonl import Jsonl
from small import SMALL, command, environment

WORDS = (*SMALL, "--train.steps=6", "--train.log_every=1")
RAGGED = ("--data.cells=50", "--data.sets.size=20", "--data.sets.per_batch=3")
"""sets of unequal length, three to a batch of two processes, and a last batch of an epoch that is smaller"""
CASES = {
    "dense": (),
    "moe4x2": ("--ffn=moe4x2",),
    "ragged": (*RAGGED, "--ffn=moe4x2", "--train.accumulate=2"),
    "every draw": (
        *RAGGED, "--ffn=moe4x2", "--ffn.noise=0.5", "--ffn.jitter=0.1", "--ffn.z_weight=0.01", "--ffn.capacity=0.8",
        "--masking.shape=random", "--masking.probability=1.0", "--expression_dropout=0.1", "--conditions=cell_type",
    ),
    "bias": ("--ffn=moe4x2", "--ffn.balance=bias", "--recompute=true", "--train.ema=0.0"),
}  # fmt: skip


def trainer(*words: str) -> Trainer:
    said = {word.partition("=")[0]: word for word in (*WORDS, *words)}  # what comes later wins
    run = resolve_run([], [*said.values()]).root
    return Trainer(
        system=run.system,
        source=run.data.open(),
        settings=run.train,
        strategy=run.strategy,
        device=torch.device("cpu"),
        seed=run.seed,
    )


def train(arm: Trainer, run: RunDir, to: int) -> list[dict[str, float]]:
    """Steps up to `to` from the newest checkpoint of the directory, and a checkpoint."""
    arm.take_up(run)
    told = []
    while arm.place.step < to:
        told.append(arm.step())
    arm.checkpoint(run)
    return told


def _process(work: Callable[[], Any], rank: int, ranks: int, port: int, result: Path) -> None:
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(ranks), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port),
        TORCHELASTIC_USE_AGENT_STORE="True",
    )  # fmt: skip
    torch.set_num_threads(1)
    with joined(ranks, torch.device("cpu")):
        told = work()
    if rank == 0:
        result.write_text(json.dumps(told))


def together(work: Callable[[], Any], result: Path, ranks: int = 2) -> Any:
    """What the first of so many processes returns."""
    store = dist.TCPStore("127.0.0.1", 0, ranks + 1, is_master=True, wait_for_workers=False)
    context = get_context("fork")
    children = [context.Process(target=_process, args=(work, r, ranks, store.port, result)) for r in range(ranks)]
    for child in children:
        child.start()
    for child in children:
        child.join(60)
        assert child.exitcode == 0
    return json.loads(result.read_text())


def state(run: Path) -> Checkpoint:
    found = latest(run)
    assert found is not None
    return load(found[1])


def agree(one: Checkpoint, other: Checkpoint) -> None:
    """Moments of gradients agree to rounding; so do weights, but for the few whose gradient is nothing but rounding.

    AdamW divides a gradient by its size, so that one that is 0 but for rounding moves its weight by the learning rate.
    """
    assert one.step == other.step
    assert one.model.keys() == other.model.keys()
    assert one.average.keys() == other.average.keys()
    moments, others = (c.trainer["optimiser"]["state"] for c in (one, other))
    assert moments.keys() == others.keys()
    sizes = []
    for key, state in moments.items():
        assert state["exp_avg"].shape == others[key]["exp_avg"].shape
        torch.testing.assert_close(others[key]["exp_avg"], state["exp_avg"], rtol=1e-4, atol=1e-6)
        sizes.append(state["exp_avg_sq"].flatten())
    moved = torch.cat(sizes).sqrt() > 1e-5
    assert float(moved.float().mean()) > 0.7
    for weights, again in ((one.model, other.model), (one.average, other.average)):
        far = {k for k in weights if not torch.allclose(weights[k].float(), again[k].float(), rtol=0, atol=1e-5)}
        exempt = sum(int(((weights[k] - again[k]).abs() > 1e-5).sum()) for k in far)
        assert exempt <= int((~moved).sum()), far


def close(one: list[dict[str, float]], other: list[dict[str, float]]) -> None:
    """All numbers of all steps but those of gates, which are read from the first process's cells."""
    assert len(one) == len(other)
    for here, there in zip(one, other, strict=True):
        names = {k for k in here if not k.startswith("stat/gate/")}
        assert names == {k for k in there if not k.startswith("stat/gate/")}
        for name in names:
            assert math.isclose(here[name], there[name], rel_tol=2e-5, abs_tol=2e-6), name


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_two_processes_take_the_steps_of_one(strategy: str, case: str, tmp_path: Path) -> None:
    """Losses, load, gradient norms, weights, averages and moments are those of one process with the same batches."""
    words = CASES[case]
    alone = train(trainer(*words), RunDir.beside(tmp_path / "one"), 3)

    def work() -> list[dict[str, float]]:
        return train(trainer(*words, f"--strategy={strategy}"), RunDir.beside(tmp_path / "two"), 3)

    close(alone, together(work, tmp_path / "told"))
    agree(state(tmp_path / "one"), state(tmp_path / "two"))


def test_a_run_goes_on_with_another_number_of_processes(tmp_path: Path) -> None:
    """Two sharded processes, then one, then two that hold the whole model end where one undisturbed process ends."""
    undisturbed = train(trainer("--ffn=moe4x2"), RunDir.beside(tmp_path / "one"), 6)
    run = RunDir.beside(tmp_path / "many")

    def work(strategy: str, to: int) -> Callable[[], list[dict[str, float]]]:
        return lambda: train(trainer("--ffn=moe4x2", f"--strategy={strategy}"), run, to)

    told = together(work("fsdp2", 2), tmp_path / "told")
    told += work("single", 4)()
    told += together(work("ddp", 6), tmp_path / "told")
    close(undisturbed, told)
    agree(state(tmp_path / "one"), state(tmp_path / "many"))


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_a_whole_training_is_that_of_one_process(strategy: str, tmp_path: Path) -> None:
    """Validations, the early stop, the best model and what is left for evaluation agree; curves are written once."""
    words = ("--train.steps=12", "--train.validate_every=1", "--train.patience=2", "--train.lr=0.1", "--train.keep=9")
    words += ("--train.checkpoint_every=2", "--train.precision=bf16", "--data.sets.per_batch=2")

    def fit(strategy: str, place: Path) -> dict[str, float]:
        arm, run, said = trainer(*words, f"--strategy={strategy}"), RunDir.beside(place), []
        track = Jsonl().start(run.path, 0) if arm.strategy.main() else Silent()
        listener = Listener(step=lambda *a: None, valid=lambda *a: None, say=said.append)
        assert arm.fit(run, track, listener, lambda: False)
        track.finish()
        arm.alone()
        assert not dist.is_initialized()
        assert any("stopped early" in line for line in said)
        return arm.validate() | {"step": float(arm.place.step)}

    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    one = fit("single", tmp_path / "one")
    two = together(lambda: fit(strategy, tmp_path / "two"), tmp_path / "told")
    assert one["step"] == two["step"] < 12
    assert all(math.isclose(one[k], two[k], rel_tol=5e-2) for k in one)
    lines = [[*map(json.loads, (tmp_path / n / "metrics.jsonl").read_text().splitlines())] for n in ("one", "two")]
    assert [line["step"] for line in lines[0]] == [line["step"] for line in lines[1]]
    assert math.isclose(lines[0][0]["train/loss"], lines[1][0]["train/loss"], rel_tol=1e-3)


@given(st.integers(1, 9), st.integers(1, 5), st.integers(1, 4), st.integers(0, 99))
def test_shares_are_the_batch_and_draw_what_one_process_draws(sets: int, ranks: int, each: int, seed: int) -> None:
    """Rows of all ranks are the sets in order, idle ones aside; so are their draws, also with several rows a set."""
    shares = [Share(rank, ranks, sets) for rank in range(ranks)]
    busy = [share for share in shares if not share.idle]
    assert [i for share in busy for i in range(sets)[share.rows]] == list(range(sets))
    assert [share.rows.stop - share.rows.start for share in busy] == [n for n in shares[0].sizes() if n]
    whole = torch.rand(sets * each, 3, generator=torch.Generator().manual_seed(seed))
    cpu = torch.device("cpu")
    drawn = [
        share.uniform(((share.rows.stop - share.rows.start) * each, 3), fresh, "sets", cpu)
        for share in busy
        if (fresh := torch.Generator().manual_seed(seed))
    ]
    assert torch.equal(torch.cat(drawn), whole)


def test_rows_that_are_no_sets_are_refused() -> None:
    """A draw whose rows do not divide into the sets is an error and never somebody else's numbers."""
    with pytest.raises(ValueError, match="3 rows of 2 sets"):
        Share(0, 2, 4).uniform((3, 1), torch.Generator(), "sets", torch.device("cpu"))


@pytest.mark.parametrize(
    ("words", "environment", "told"),
    [
        (["--devices=2"], {}, "strategy single runs one process; choose --strategy ddp"),
        (["--devices=3", "--strategy=ddp"], {}, "a batch has 2 sets"),
        (["--devices=3", "--strategy=ddp"], {"RANK": "0", "WORLD_SIZE": "2"}, "torchrun started 2 processes"),
        ([], {"RANK": "0", "WORLD_SIZE": "2"}, "torchrun started 2 processes: strategy single"),
        (["--devices=-1", "--strategy=ddp"], {}, "must be >= 0"),
    ],
)
def test_devices_that_cannot_be(
    words: list[str],
    environment: dict[str, str],
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    """More processes than sets, than the strategy runs or than torchrun started: one sentence, exit 2, no file."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert main(["run", *SMALL, *words, "-o", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert told in said
    assert said.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_single_number_cannot_be_sharded() -> None:
    """A module with a parameter of no axis is refused before anything starts, by its name."""
    module = torch.nn.Module()
    module.scale = torch.nn.Parameter(torch.zeros(()))
    with pytest.raises(UserError, match=r"scale is a single number.*--strategy ddp"):
        Fsdp2().refuse(module, 2)
    Fsdp2().refuse(module, 1)


def test_the_number_of_processes_is_no_part_of_a_run() -> None:
    """The same run on other devices is the same run; another strategy is another."""
    one, two, other = (
        run_identity(resolve_run([], [*SMALL, "--strategy", s, "--devices", d]), "", "cpu")
        for s, d in (("ddp", "1"), ("ddp", "2"), ("fsdp2", "2"))
    )
    assert one == two != other


@pytest.mark.slow
def test_a_dead_process_ends_the_run_and_the_same_command_goes_on(tmp_path: Path) -> None:
    """A killed process: exit 1, one sentence that names it. Ctrl-C: a checkpoint, exit 130, no traceback."""
    words = ("run", *WORDS, "--strategy=ddp", "--devices=2", "--train.steps=100000", "-o", "run")
    words = tuple(word for word in words if word != "--train.steps=6")
    process, told = started(words, tmp_path), ""
    wait_for_step(tmp_path / "run", 2, process)
    os.kill(json.loads((tmp_path / "run" / "run.json").read_text())["environment"]["pid"], signal.SIGKILL)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "process 0 of 2 ended by signal 9" in told
    assert "Traceback" not in told
    process = started(words, tmp_path)
    wait_for_step(tmp_path / "run", 4, process)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130, told
    assert "Traceback" not in told
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "stopped"
    assert latest(tmp_path / "run") is not None


def started(words: tuple[str, ...], folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(*words), cwd=folder, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait_for_step(run: Path, step: int, process: subprocess.Popen[str]) -> None:
    """Watch the run's own file grow: progress, not the clock, decides when to strike."""
    path = run / "metrics.jsonl"
    while process.poll() is None and (not path.exists() or path.read_text().count("\n") < step):
        try:
            process.wait(timeout=0.01)
        except subprocess.TimeoutExpired:
            continue
