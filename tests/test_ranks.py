"""Several processes that share each batch take the steps of one."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from core.cli import main
from core.cli.choose import resolve_run
from core.train.checkpoint import Checkpoint, latest, load
from core.train.loop import Listener, Trainer
from core.train.ranks import LOST, Share, joined
from core.train.rundir import RunDir
from plugins.trackers.jsonl import Jsonl
from small import SMALL

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


@pytest.mark.parametrize("words", CASES.values(), ids=CASES)
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_two_processes_take_the_steps_of_one(strategy: str, words: tuple[str, ...], tmp_path: Path) -> None:
    """Losses, load, gradient norms, weights, averages and moments are those of one process with the same batches."""
    alone = train(trainer(*words), RunDir.beside(tmp_path / "one"), 3)

    def work() -> list[dict[str, float]]:
        return train(trainer(*words, f"--strategy={strategy}"), RunDir.beside(tmp_path / "two"), 3)

    close(alone, together(work, tmp_path / "told"))
    agree(state(tmp_path / "one"), state(tmp_path / "two"))
