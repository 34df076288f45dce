"""Laws of the spatial system as a whole: who counts, what comes back, what is executed, who decides."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata
import attrs
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from core.cli.choose import resolve_run
from core.errors import RunFailed, UserError
from core.kinds import Batch
from core.nn.padding import centred
from core.train import checkpoint
from core.train.checkpoint import Checkpoint
from core.train.streams import Streams
from plugins.data import anndata_file
from plugins.data.cut import Cut
from plugins.data.h5ad import H5ad
from plugins.data.prepare import Prepare
from plugins.data.processed import Processed
from plugins.data.sets import Sets
from plugins.losses.distance_mse import DistanceMse
from plugins.systems.spatial.conditions import labels_of
from plugins.systems.spatial.fields import MODALITIES
from prepared import cells, merge, save, stage
from small import SMALL
from test_spatial_process import Oracle
from test_system import PIECES, trainer

law = settings(deadline=None, max_examples=25)


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def padded(batch: Batch, count: int, wild: float) -> Batch:
    """The batch with `count` cells more in each set that are none, of any content."""
    fields = {
        k: torch.cat([v, v.new_full((len(v), count, *v.shape[2:]), wild if v.is_floating_point() else -1)], 1)
        for k, v in batch.fields.items()
    }
    real = torch.cat([batch.real_BN, batch.real_BN.new_zeros(len(batch.real_BN), count)], 1)
    return Batch(fields, real, batch.units)


def part(batch: Batch, b: int) -> Batch:
    """One set of a batch."""
    return Batch({k: v[b : b + 1] for k, v in batch.fields.items()}, batch.real_BN[b : b + 1], batch.units[b : b + 1])


@pytest.mark.parametrize("words", PIECES, ids=" ".join)
def test_cells_that_are_none_and_other_sets_change_no_prediction(words: list[str]) -> None:
    """Predictions of a set are the same alone and beside others; padding of NaN changes no loss and gradient either."""
    arm = trainer(words)
    arm.model.double().eval()
    whole = arm.train_split.batch(0, 0)
    batch = Batch(
        {k: v.double() if v.is_floating_point() else v for k, v in whole.fields.items()}, whole.real_BN, whole.units
    )
    times = {m: torch.linspace(0.3, 0.8, len(batch.real_BN), dtype=torch.float64) for m in arm.system.learned}

    def outcome(given: Batch, t: dict[str, Tensor], rows: int) -> list[Tensor]:
        arm.model.zero_grad(set_to_none=True)
        noisy = {m: given.fields[m] for m in MODALITIES}
        found, aux = arm.system._denoise(arm.model, noisy, t, given)
        kept = {m: found[m][:, :rows] for m in arm.system.learned}
        total = sum((x * torch.linspace(1, 2, x.shape[-1], dtype=x.dtype)).square().sum() for x in kept.values())
        torch.stack([total, *aux.losses.values()]).sum().backward()
        grads = [p.grad for p in arm.model.parameters() if p.grad is not None]
        return [x.detach() for x in (*kept.values(), *aux.losses.values(), *aux.stats.values(), *grads)]

    cells_of_a_set = batch.real_BN.shape[1]
    plain = outcome(batch, times, cells_of_a_set)
    for wild in (0.0, float("nan")):
        for one, other in zip(plain, outcome(padded(batch, 3, wild), times, cells_of_a_set), strict=True):
            torch.testing.assert_close(other, one, rtol=1e-8, atol=1e-9)
    for b in range(len(batch.real_BN)):
        alone = outcome(part(batch, b), {m: t[b : b + 1] for m, t in times.items()}, cells_of_a_set)
        for m, one in zip(arm.system.learned, alone, strict=False):
            there = plain[arm.system.learned.index(m)][b : b + 1]
            torch.testing.assert_close(one, there, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize(
    "words", [[], ["--position_head=edm", "--solver=heun"], ["--solver=ddim(eta=1)"]], ids=" ".join
)
def test_padding_is_no_part_of_a_sample(words: list[str]) -> None:
    """What padding holds changes neither a sample nor the mean; placed cells are centred over the real ones alone."""
    arm = trainer(words)
    arm.model.eval()
    batch = arm.train_split.batch(0, 0)
    found = []
    for wild in (0.0, float("nan")):
        given = padded(batch, 5, wild)
        real = given.real_BN
        with torch.no_grad():
            drawn = [
                make(arm.model, given, (m,), rng(3))[m][real]
                for make in (arm.system.sample, arm.system.expect)
                for m in MODALITIES
            ]
            place = arm.system.sample(arm.model, given, ("position",), rng(3))["position"]
        found.append(drawn)
        mean = torch.where(real[..., None], place, 0).sum(1) / real.sum(1, keepdim=True)
        assert float(mean.abs().max()) < 1e-4
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


@law
@given(seed=st.integers(0, 2**32), count=st.integers(2, 60), dims=st.integers(2, 3), shift=st.integers(-(10**4), 10**4))
def test_a_tissue_in_another_pose_costs_nothing(seed: int, count: int, dims: int, shift: int) -> None:
    """Turned, mirrored and shifted by up to 10,000 it is the same tissue; the loss is symmetric and never negative."""
    place, other = (torch.randn(2, 1, count, dims, generator=rng(seed)) * 64).round() / 64
    real, loss = torch.ones(1, count, dtype=torch.bool), DistanceMse()
    axes = torch.eye(dims)[torch.randperm(dims, generator=rng(seed))]  # a turn or mirror image without rounding
    signs = torch.randint(2, (dims,), generator=rng(seed)) * 2.0 - 1
    assert float(loss(place @ (axes * signs) + shift, place, real)["distance_mse"]) == 0
    turn = torch.linalg.qr(torch.randn(dims, dims, dtype=torch.float64, generator=rng(seed)))[0]
    assert float(loss(place.double() @ turn + shift, place.double(), real)["distance_mse"]) < 1e-18
    there, back = (float(loss(a, b, real)["distance_mse"]) for a, b in ((place, other), (other, place)))
    assert there == pytest.approx(back, rel=1e-5)
    assert there >= 0


@pytest.mark.parametrize("kind", ["h5ad", "processed"])
@pytest.mark.parametrize("dims", [2, 3])
def test_cells_that_are_placed_rightly_come_out_where_they_were(
    kind: str, dims: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """New cells, read into model units and written as if made, have the places and the unit that they came with."""
    monkeypatch.setattr(anndata_file, "_probe", lambda path: None)

    def tissue(seed: int) -> anndata.AnnData:
        data = cells(seed=seed)
        data.obsm["spatial"] = np.random.default_rng(seed).uniform(0, 700, (90, dims)) * 10.0**seed + 5000
        return data

    known, new = save(tmp_path / "known.h5ad", tissue(0)), save(tmp_path / "new.h5ad", tissue(1))
    knobs: H5ad | Processed = H5ad(path=str(known), sets=Sets(), cut=Cut(), prepare=Prepare())
    if kind == "processed":
        stage(tmp_path / "mid", known)
        knobs = Processed(path=str(merge(tmp_path / "out", tmp_path / "mid").path), sets=Sets())
    read = knobs.like(new, knobs.open().preparation(), ("expression", "position"))
    units = [*read.units()]
    order = np.argsort(np.concatenate([unit.fields["index"][0].numpy() for unit in units]))
    made = np.concatenate([unit.fields["position"][0].numpy() for unit in units])[order]
    assert 0.1 < np.abs(made).max() < 100
    read.save(tmp_path / "made.h5ad", {"position": made[None]}, {}, fresh=False)
    back = anndata.read_h5ad(tmp_path / "made.h5ad").obsm["spatial"]
    np.testing.assert_allclose(back, tissue(1).obsm["spatial"], rtol=1e-6, atol=5e-3)


@pytest.fixture(scope="module")
def batch() -> Batch:
    """Sets of cells from the smallest tissue."""
    return resolve_run([], [*SMALL]).root.data.open().split("train", Streams(0)).batch(0, 0)


@pytest.mark.parametrize("solver", ["ddpm", "ddim"])
@settings(deadline=None, max_examples=12)
@given(steps=st.integers(1, 60))
def test_a_sampler_takes_the_steps_that_were_asked_for(solver: str, batch: Batch, steps: int) -> None:
    """Any number of steps is that number of calls, from pure noise on, later each time; and it ends in the data."""
    run = resolve_run(
        [], [*(w for w in SMALL if "sampling" not in w), f"--solver={solver}", f"--sampling={steps}"]
    ).root
    clean = {"expression": batch.fields["expression"], "position": centred(batch.fields["position"], None)}
    model = Oracle(run.system, clean)
    found = run.system.sample(model, batch, ("position",), rng(steps))
    at = [float(times["position"][0]) for _, times in model.seen]
    assert len(at) == steps
    assert at[0] == 0
    assert all(a < b < 1 for a, b in zip([-1.0, *at], at, strict=False))
    torch.testing.assert_close(found["position"], clean["position"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["trainer.pt", "model.safetensors", "average.safetensors"])
def test_a_checkpoint_runs_no_code(name: str, tmp_path: Path) -> None:
    """A pickle that would act on loading, in place of any file of a checkpoint, is refused and does not act."""
    mark = tmp_path / "executed"

    class Evil:
        def __reduce__(self) -> tuple:
            return os.mkdir, (str(mark),)

    weights = {"w": torch.zeros(2)}
    folder = checkpoint.save(tmp_path, Checkpoint(3, weights, weights, {}, {"place": {"step": 3}}), keep=1)
    assert checkpoint.load(folder).step == 3
    (folder / name).write_bytes(pickle.dumps(Evil()))
    with pytest.raises(RunFailed, match="cannot be read"):
        checkpoint.load(folder)
    torch.save(Evil(), folder / name)
    with pytest.raises(RunFailed, match="cannot be read"):
        checkpoint.load(folder)
    assert not mark.exists()


def test_numbers_of_a_file_are_numbers_and_flags_win(core: Callable[..., Any], tmp_path: Path) -> None:
    """1e-4 in a file is a number, "1e-4" is a mistake; flag beats file beats default, as the printed table says."""
    file = tmp_path / "c.toml"
    file.write_text("dropout = 0.3\n[train]\nlr = 1e-4\nweight_decay = 1e-5\n")
    run = resolve_run([str(file)], [*SMALL, "--train.weight_decay=2e-5"]).root
    assert (run.train.lr, run.train.weight_decay, run.system.dropout) == (1e-4, 2e-5, 0.3)
    assert run.system.expression_weight == 1.0
    said = core("run", str(file), *SMALL, "--train.weight_decay=2e-5", "--dry-run")
    table = {line.split()[0]: line for line in said.out.splitlines() if line.strip()}
    assert said.code == 0
    assert "0.0001" in table["train.lr"]
    assert "c.toml" in table["train.lr"]
    assert "2e-05" in table["train.weight_decay"]
    assert "CLI --train.weight_decay" in table["train.weight_decay"]
    file.write_text('[train]\nlr = "1e-4"\n')
    with pytest.raises(UserError, match=r"train.lr: expected float, got '1e-4'"):
        resolve_run([str(file)], [*SMALL])


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--ffn=moe4x8"], "top_k"),
        (["--droput=0.2"], "dropout"),
        (["--masking.ratio=0.4"], "masking"),
    ],
)
def test_what_cannot_be_is_told_with_its_name(words: list[str], says: str) -> None:
    """More experts a cell than there are, and parameters that nobody knows, are refused before anything is read."""
    with pytest.raises(UserError, match=says):
        resolve_run([], [*SMALL, *words])


def test_conditions_of_padding_are_unknown() -> None:
    """A type that stands on padding is told to no cell."""
    arm = trainer(["--conditions=cell_type"])
    batch = arm.train_split.batch(0, 0)
    labels = labels_of(arm.model)
    assert labels is not None
    real = batch.real_BN.clone()
    real[:, -4:] = False
    told = labels.codes(attrs.evolve(batch, real_BN=real), None)["cell_type"]
    assert (told[:, -4:] == -1).all()
    assert (told[:, :-4] == batch.fields["cell_type"][:, :-4]).all()
