"""Faults of spatial pipelines that raise no error: scores that cannot rise, units that drown noise, leaks."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import attrs
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from core.cli.choose import resolve_run
from core.kinds import Score
from core.nn.padding import centred
from core.score import MODEL
from core.testing.data import items
from core.train.streams import Streams
from plugins.data import anndata_file
from plugins.data.cut import Cut
from plugins.data.division import Ratios, divide
from plugins.data.h5ad import H5ad
from plugins.data.prepare import Prepare
from plugins.data.processed import Processed
from plugins.data.sets import Sets
from plugins.data.tissue import Tissue
from plugins.ffn.dense import Dense
from plugins.ffn.moe import Moe
from plugins.losses.distance_mse import DistanceMse
from plugins.metrics.contact_f1 import ContactF1
from plugins.metrics.distance_error import DistanceError
from plugins.metrics.distance_spearman import DistanceSpearman
from plugins.metrics.joint_coherence import JointCoherence
from plugins.metrics.knn_preservation import KnnPreservation
from plugins.metrics.procrustes import Procrustes
from plugins.systems.spatial.judge import SAMPLE, TASKS
from plugins.systems.spatial.process import noise, see, shares
from prepared import cells, merge, save, stage
from small import SMALL
from test_spatial_process import Oracle
from test_system import trainer


@pytest.fixture(autouse=True)
def unprobed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The look at a file from another process costs an interpreter."""
    monkeypatch.setattr(anndata_file, "_probe", lambda path: None)


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Reader(nn.Module):
    """A network that answers with the truth, blurred, where it is shown the other modality of the very cells, clean.

    Asked otherwise, it answers for the cells in the wrong order.
    """

    def __init__(self, system: object, clean: dict[str, Tensor], blur: float) -> None:
        super().__init__()
        self.oracle, self.clean, self.blur = Oracle(system, {}), clean, blur
        self.device_marker = nn.Parameter(torch.zeros(1))

    def forward(self, fields: dict, times: dict, real_BN: Tensor) -> tuple:
        other = {"expression": "position", "position": "expression"}
        for m, true in self.clean.items():
            asked = bool((times[other[m]] == 1).all()) and torch.equal(fields[other[m]], self.clean[other[m]])
            answer = true + self.blur * torch.randn(true.shape, generator=rng(5))
            self.oracle.clean[m] = answer if asked else answer.roll(7, 1)
        return self.oracle(fields, times, real_BN)


@pytest.mark.parametrize("mode", ["joint", "expr_to_pos", "pos_to_expr"])
def test_scores_rise_with_the_model(mode: str) -> None:
    """Each cell is predicted from its own other half: whoever knows the answer scores best on every metric, the less
    the blurrier it knows it, by the mean and by one sample alike."""
    run = resolve_run([], [*SMALL, f"--mode={mode}"]).root
    source = run.data.open()
    (unit,) = source.split("test", Streams(0)).units()
    clean = {"expression": unit.fields["expression"], "position": centred(unit.fields["position"], None)}
    best = {"procrustes": 0.0, "distance_error": 0.0, "rssd": 0.0, "expression_mse": 0.0}

    def scores(blur: float, arm: str) -> dict[str, Score]:
        found = run.system.evaluate(Reader(run.system, clean, blur).eval(), source, "test", Streams(0)).scores
        return {f"{s.task}/{s.metric}": s for s in found if s.arm == arm and s.task != TASKS["joint"]}

    for arm in (MODEL, SAMPLE):
        exact, near, far = (scores(blur, arm) for blur in (0.0, 0.3, 3.0))
        assert exact.keys() == near.keys() == far.keys()
        assert run.system.headline in exact
        for name, s in exact.items():
            sign = 1.0 if s.higher else -1.0
            assert s.value == pytest.approx(best.get(s.metric, 1.0), abs=5e-3), name
            assert sign * s.value > sign * near[name].value > sign * far[name].value, name


def test_made_cells_are_judged_as_a_population() -> None:
    """Cells made from nothing belong to no real cell: the order in which they come changes no score of theirs."""
    draw = np.random.default_rng(0)
    slope = draw.standard_normal((2, 6))

    def tissue(count: int) -> tuple[np.ndarray, np.ndarray]:
        place = draw.uniform(-1, 1, (count, 2))
        return place @ slope + 0.3 * draw.standard_normal((count, 6)), place

    known, real, made = tissue(300), tissue(120), tissue(120)
    order = draw.permutation(120)
    score = JointCoherence().score
    plain = score(made[0], real[0], made[1], real[1], *known)
    assert score(made[0][order], real[0], made[1][order], real[1], *known) == pytest.approx(plain, abs=1e-9)
    assert score(made[0], real[0][order], made[1], real[1][order], *known) == pytest.approx(plain, abs=1e-9)


def test_each_modality_is_noised_at_the_time_that_is_told_for_it() -> None:
    """In joint training both modalities have a time of their own, and are shown as noisy as that time says."""
    arm = trainer(["--position_path=cosine(exponent=2)"])
    batch, told = arm.train_split.batch(0, 0), []
    arm.model.register_forward_pre_hook(lambda module, given: told.append(given))
    clean = {"expression": batch.fields["expression"], "position": centred(batch.fields["position"], batch.real_BN)}
    unequal = 0
    for step in range(6):
        arm.system.step(arm.model, batch, Streams(1), step)
        fields, times, _ = told[-1]
        fresh = noise(clean, batch.real_BN, Streams(1).generator("noise", step))
        for m, x in clean.items():
            path = arm.system.path_of(m)
            alpha, sigma = shares(path, times[m])
            wanted = see(path, alpha * x + sigma * fresh[m], times[m]).alone_BNF
            torch.testing.assert_close(fields[m], wanted, rtol=1e-4, atol=1e-5)
        unequal += int((times["expression"] != times["position"]).sum())
    assert unequal == 6 * len(batch.real_BN)


@pytest.mark.parametrize("kind", ["h5ad", "processed"])
def test_the_unit_of_coordinates_does_not_decide_how_noisy_they_are(kind: str, tmp_path: Path) -> None:
    """In micrometres or kilometres, near the origin or not, a model sees the same places, of the spread of its noise;
    what it says comes back in the input's unit."""
    seen, back = [], []
    for name, unit, shift in (("here", 1.0, 0.0), ("there", 1e-3, -4e3)):
        data = cells()
        data.obsm["spatial"] = data.obsm["spatial"] * [1.0, 0.5] * unit + shift
        (tmp_path / name).mkdir()
        file = save(tmp_path / name / "a.h5ad", data)
        knobs: H5ad | Processed = H5ad(path=str(file), sets=Sets(), cut=Cut(), prepare=Prepare())
        if kind == "processed":
            stage(tmp_path / name / "mid", file)
            knobs = Processed(path=str(merge(tmp_path / name / "out", tmp_path / name / "mid").path), sets=Sets())
        source = knobs.open()
        train = [*source.split("train", Streams(0)).units()]
        for part in train:
            assert float(part.fields["position"][0].mean(0).abs().max()) < 0.2
        assert float(torch.cat([p.fields["position"][0] for p in train]).square().mean()) == pytest.approx(1, rel=1e-3)
        split = [part for name in ("train", "valid", "test") for part in source.split(name, Streams(0)).units()]
        place = {str(part.units[0]) + str(i): part.fields["position"][0] for i, part in enumerate(split)}
        seen.append(torch.cat([*place.values()]))
        back.append(np.concatenate([source.restore("position", x.numpy()) for x in place.values()]) / unit)
        extent = np.ptp(data.obsm["spatial"], axis=0).max() / unit
        assert 0.8 * extent < np.ptp(back[-1], axis=0).max() < 1.2 * extent
    torch.testing.assert_close(seen[0], seen[1], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(back[0], back[1], rtol=1e-4, atol=1e-2)


def leaked(by: str, place_nP: np.ndarray) -> float:
    """The share of test cells whose nearest other cell is trained on."""
    names = np.array([f"c{i}" for i in range(len(place_nP))], object)
    code_n = divide({"s": len(place_nP)}, lambda name: (place_nP, names), Ratios(by=by, valid=0.1, test=0.2)).codes["s"]
    apart_nn = np.linalg.norm(place_nP[:, None] - place_nP[None], axis=-1)
    np.fill_diagonal(apart_nn, np.inf)
    return float((code_n[apart_nn.argmin(1)][code_n == 2] == 0).mean())


def test_neighbours_of_test_cells_are_not_trained_on() -> None:
    """By spatial block few test cells have their neighbour in train, by section none; single cells would leak most."""
    place_nP = np.random.default_rng(0).uniform(0, 100, (900, 2))
    assert leaked("cell", place_nP) > 0.5
    assert leaked("block", place_nP) < 0.2
    sizes = {f"s{i}": 20 for i in range(5)}
    made = divide(sizes, lambda name: (place_nP[:20], np.arange(20)), Ratios())
    assert all(len(set(code_n.tolist())) == 1 for code_n in made.codes.values())


@pytest.mark.parametrize("kind", ["tissue", "h5ad"])
def test_sets_larger_than_the_data_drop_no_cell(kind: str, tmp_path: Path) -> None:
    """Who asks for more cells a batch than there are gets all of them, in one batch."""
    sets = Sets(size=10_000, per_batch=1_000)
    data: Tissue | H5ad = Tissue(sections=3, cells=30, genes=10, types=3, sets=sets, cut=Cut(), prepare=Prepare())
    if kind == "h5ad":
        file = save(tmp_path / "a.h5ad", cells())
        data = H5ad(path=str(file), sets=sets, cut=Cut(), prepare=Prepare())
    source = data.open()
    split = source.split("train", Streams(0))
    assert split.batches(0) == 1
    assert sorted(items(split.batch(0, 0))) == sorted(i for unit in split.units() for i in items(unit))
    assert len(items(split.batch(0, 0))) == source.describe().splits["train"] > 0


def test_types_that_are_numbers_may_be_missing(tmp_path: Path) -> None:
    """A cell type of NaN among numbers is unknown, not a type and no crash."""
    data = cells()
    data.obs["cell_type"] = np.array([np.nan, 1.0, 2.0])[np.arange(90) % 3]
    source = H5ad(path=str(save(tmp_path / "a.h5ad", data)), sets=Sets(), cut=Cut(), prepare=Prepare()).open()
    names = source.names("cell_types")
    assert len(names) == 2
    for name in ("train", "valid", "test"):
        for unit in source.split(name, Streams(0)).units():
            for row, code in zip(*(unit.fields[f][0].tolist() for f in ("index", "cell_type")), strict=True):
                assert code == -1 if row % 3 == 0 else float(names[code]) == row % 3


@pytest.mark.parametrize("count", [2, 26, 300])
def test_a_shape_far_from_the_origin_is_the_same_shape(count: int) -> None:
    """In float32, at sizes where distances by matrix products lose their digits, a shifted tissue is a perfect one."""
    grid = torch.randint(-3000, 3000, (1, count, 3), generator=rng(count)).float() / 1024
    far = grid + 10_000  # exact: the grid has 10 binary digits behind the point
    loss = DistanceMse()(far, grid, torch.ones(1, count, dtype=torch.bool))["distance_mse"]
    assert float(loss) == 0
    found, true = far[0].numpy(), grid[0].numpy()
    best = {DistanceSpearman(): 1.0, KnnPreservation(): 1.0, DistanceError(): 0.0, Procrustes(): 0.0}
    best |= {ContactF1(): 1.0} if count > 2 else {}
    for metric, value in best.items():
        assert metric.score(found, true) == pytest.approx(value, abs=1e-6), metric


@pytest.mark.parametrize("shape", ["random", "block", "structured"])
def test_a_resumed_training_masks_as_much_as_one_that_was_never_stopped(shape: str, tmp_path: Path) -> None:
    """Masked shares that grow with the steps go on from where a checkpoint left them, to the last bit."""
    words = [f"--masking.shape={shape}", "--masking.growth=6", "--masking.min_visible=2", "--masking.probability=1"]
    folder = SimpleNamespace(path=tmp_path)
    whole, first, second = (trainer([*words, "--masking.position=1"]) for _ in range(3))
    expected = [whole.step() for _ in range(4)]
    told = [first.step() for _ in range(2)]
    first.checkpoint(folder)
    assert second.take_up(folder) == 2
    told += [second.step() for _ in range(2)]
    assert told == expected
    for (name, one), (_, other) in zip(*(arm.model.state_dict().items() for arm in (whole, second)), strict=True):
        assert torch.equal(one, other), name


def test_experts_differ_from_the_dense_network_in_being_experts_alone() -> None:
    """Unless asked, experts have the activation, the size and the dropout of the network that they stand beside."""
    dense, moe = Dense(), Moe()
    shared = {f.name for f in attrs.fields(Dense)} & {f.name for f in attrs.fields(Moe)}
    assert shared >= {"activation", "ratio", "dropout"}
    assert all(getattr(dense, name) == getattr(moe, name) for name in shared)


def test_validation_measures_the_weights_and_not_its_own_noise() -> None:
    """The same weights have the same validation loss at any step; nothing is dropped or masked for it."""
    calm = trainer([])
    stirred = trainer(
        ["--masking.shape=random", "--masking.min_visible=2", "--masking.probability=1", "--expression_dropout=0.5"]
    )
    told = []
    for arm in (calm, stirred):
        first = arm.validate()
        arm.place.step = 17
        arm.train_split.batch(0, 0)
        torch.rand(3)
        assert arm.validate() == first
        told.append(first)
    assert told[0] == told[1]
    before = calm.validate()["valid/loss"]
    calm.step()
    assert calm.validate()["valid/loss"] != before
