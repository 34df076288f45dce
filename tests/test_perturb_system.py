"""The system `perturb`: laws of systems, the cascade's two stages, and what each stream learns from."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata
import attrs
import numpy as np
import pandas as pd
import pytest
import torch

from core.errors import UserError
from core.kinds import Card, Evaluation
from core.testing.system import SystemLaws
from core.train.loop import Trainer
from core.train.streams import Streams
from perturbed import SMALL, calls, changed, make, recorded, trained, trainer, unit_of
from plugins.solvers.adaptive import Adaptive
from plugins.solvers.rk4 import Rk4
from plugins.systems.perturb import generate
from plugins.systems.perturb.cells import Cells
from plugins.systems.perturb.network import Spent
from plugins.systems.perturb.pictures import pictures
from plugins.systems.perturb.zeros import thresholds, with_zeros

CONFIGURATIONS: list[list[str]] = [
    [],
    [
        "--time=aligned",
        "--solver=rk4",
        "--backbone=diff_transformer",
        "--noise=poisson",
        "--latent_of=covered",
        "--extractor.covers=expressed",
    ],
    ["--time=independent", "--backbone=perceiver", "--attention=softmax", "--ffn=moe4x2"],
]


@pytest.mark.parametrize("words", CONFIGURATIONS, ids=str)
class TestPerturb(SystemLaws):
    def trainer(self, words: list[str]) -> Trainer:
        return trainer(words)


def test_cells_are_the_same_however_many_go_into_a_call() -> None:
    """Generation is a function of cells and generator, not of how cells are divided over calls."""
    made = trained()
    cells = unit_of(made)
    whole = make(made, cells)
    np.testing.assert_allclose(make(made, cells, cells_per_call=2), whole, rtol=1e-5, atol=1e-5)
    assert not np.allclose(make(made, cells, seed=1), whole)


def test_the_first_stage_leaves_the_noise_of_the_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """Latents are made while expression waits as one draw of noise at t = 0; then they stand still at t = 1."""
    made = trained()
    seen = recorded(made, monkeypatch)
    make(made, unit_of(made))
    assert len(seen) == calls(made.system)
    first = [one for one in seen if one[2] == ("latent",)]
    second = [one for one in seen if one[2] == ("expression",)]
    assert len(first) + len(second) == len(seen)
    assert all(torch.equal(fields["expression"], first[0][0]["expression"]) for fields, _, _ in first)
    assert torch.equal(second[0][0]["expression"], first[0][0]["expression"])
    assert all(torch.equal(fields["latent"], second[0][0]["latent"]) for fields, _, _ in second)
    assert all((times["expression"] == 0).all() for _, times, _ in first)
    assert all((times["latent"] == 1).all() for _, times, _ in second)
    assert [times["latent"][0].item() for _, times, _ in first] == [0.0, 0.5, 0.5]


@pytest.mark.parametrize("words", [(), ("--time=aligned", "--solver=rk4"), ("--backbone=perceiver",)], ids=str)
def test_what_is_kept_changes_nothing(words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """A network that makes everything anew at each evaluation generates the same cells, guided ones too."""
    made = trained(*words)
    cells = unit_of(made)
    kept = make(made, cells, guidance=2.0)
    monkeypatch.setattr(made.model, "options", ())
    np.testing.assert_array_equal(make(made, cells, guidance=2.0), kept)


def test_evaluations_are_counted() -> None:
    """What is told of the cost is counted, and for fixed steps it is what the solver announces, however many cells."""
    made = trained()
    made.model.spent = Spent()
    for few in (1, 64):
        make(made, unit_of(made), cells_per_call=few)
        assert made.model.spent.each == calls(made.system)
    assert made.model.spent.cells == 2 * len(unit_of(made).given.control)


def test_an_adaptive_solver() -> None:
    """It generates what many fixed steps do, stage by stage, and its evaluations are counted as it goes."""
    made = trained()
    cells = unit_of(made)
    fine = make(made, cells, solver=Rk4(), sampling=40, latent_steps=40)
    made.model.spent = Spent()
    steps = {name: getattr(attrs.fields(type(made.system)), name).default for name in ("sampling", "latent_steps")}
    found = make(made, cells, solver=Adaptive(atol=1e-5, rtol=1e-5), **steps)
    np.testing.assert_allclose(found, fine, rtol=1e-3, atol=1e-3)
    assert calls(attrs.evolve(made.system, solver=Adaptive(), **steps)) is None
    assert made.model.spent.each >= 2 * 9
    with pytest.raises(ValueError, match="sampling = 7 does nothing with a solver that chooses"):
        attrs.evolve(made.system, solver=Adaptive(), **(steps | {"sampling": 7}))


def test_streams_that_go_together_end_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Along aligned times both streams move in one stage, the latent ahead of the expression."""
    made = trained("--time=aligned")
    seen = recorded(made, monkeypatch)
    make(made, unit_of(made), sampling=4)
    assert {streams for _, _, streams in seen} == {("expression", "latent")}
    inner = [times for _, times, _ in seen if 0 < times["latent"][0] < 1]
    assert inner
    assert all((times["latent"] > times["expression"]).all() for times in inner)


def test_guidance_of_one_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guided cells differ, at twice the calls; outside its interval of times guidance costs and does nothing."""
    made = trained()
    cells = unit_of(made)
    plain = make(made, cells)
    seen = recorded(made, monkeypatch)
    guided = make(made, cells, guidance=3.0)
    assert len(seen) == calls(made.system) + sum(streams == ("expression",) for *_, streams in seen) // 2
    assert not np.allclose(guided, plain)
    assert not any(fields["told"].any() for fields, *_ in seen if not fields["told"].all())
    late = make(made, cells, guidance=3.0, guided_from=0.9)
    np.testing.assert_array_equal(late, plain)


@pytest.mark.parametrize("stream", ["expression", "latent"])
def test_a_stream_is_taught_by_its_own_cells_alone(stream: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What cells of the other stage hold changes no loss of a stream, and its read-out learns nothing from them."""
    made = trained()
    batch = made.train_split.batch(0, 0)
    drawn = made.system.time.assign(batch.real_BN.numel(), made.system.streams, Streams(1).generator("time", 0))
    idle = ~drawn.active[stream].reshape(batch.real_BN.shape)
    assert idle.any()
    assert not idle.all()
    both = batch, changed(batch, "expression", idle)
    before, after = (made.system.step(made.model, b, Streams(1), 0).losses for b in both)
    torch.testing.assert_close(after[f"{stream}/mse"], before[f"{stream}/mse"])
    made.model.zero_grad(set_to_none=True)
    other = "latent" if stream == "expression" else "expression"
    made.system.step(made.model, batch, Streams(1), 0).losses[f"{other}/mse"].backward()
    own = [p.grad for name, p in made.model.network.decoders[stream].named_parameters()]
    assert all(g is None or not g.any() for g in own)


def test_the_extractor_is_frozen() -> None:
    """It is no part of the weights, and what it says carries no gradient."""
    made = trained()
    assert not any("fitted" in name or "extractor" in name for name in made.model.state_dict())
    latents = made.model.latents(unit_of(made).expression, unit_of(made).given.level, torch.arange(3))
    assert not latents.z_NKD.requires_grad


def test_what_is_fitted_knows_of_training_cells_alone() -> None:
    """Other test cells leave every fitted array as it is, to the bit."""
    made = trainer([])
    source = made.source
    before = made.system.fit(source, Streams(0))
    test = source._rows["test"]
    values = source.table.values if hasattr(source.table, "values") else source.table.matrix
    values[test] = values[test] * 3
    after = made.system.fit(source, Streams(0))
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_zeros_are_as_frequent_as_in_training() -> None:
    """Thresholds give each gene the true share of zeros; never-zero genes keep all values, silent ones none."""
    rng = np.random.default_rng(0)
    made = rng.normal(1.0, 0.5, (200, 4)).astype(np.float32)
    true = np.ones((50, 4), np.float32)
    true[:20, 1] = 0
    true[:, 2] = 0
    out = with_zeros(made, thresholds(made, true))
    np.testing.assert_allclose((out == 0).mean(0), [(made[:, 0] <= 0).mean(), 0.4, 1.0, (made[:, 3] <= 0).mean()])
    assert (out >= 0).all()
    np.testing.assert_array_equal(with_zeros(made, None), np.maximum(made, 0))


def test_thresholds_are_of_the_weights_and_of_how_cells_are_made() -> None:
    """Worked out once for each way of generating, and anew for weights that went on being trained."""
    made = trainer([])
    given = Cells.of(next(iter(made.source.split("test", Streams(0)).units()))).given
    with made.evaluating(), torch.no_grad():
        first = generate.calibrated(made.system, made.model, 0, given)
        assert generate.calibrated(made.system, made.model, 0, given) is first
        assert generate.calibrated(attrs.evolve(made.system, sampling=1), made.model, 0, given) is not first
        assert generate.calibrated(attrs.evolve(made.system, zeros="none"), made.model, 0, given) is None
    made.step()
    assert not made.model.thresholds


def test_what_contradicts_itself_is_refused() -> None:
    """Other data, a stochastic solver and an empty interval of guidance are named, with what to do."""
    never = ["--guided_from=0.8", "--guided_to=0.5"]
    with pytest.raises(UserError, match="and the data tissue are none; take `--data screen`"):
        trained().system.build(Card(name="tissue", sizes={"genes": 3}, splits={}, fingerprint=""))
    for words, text in ((["--solver=ddpm"], "take euler, heun or rk4"), (never, "nothing is guided")):
        with pytest.raises(UserError, match=text):
            trainer(words)


def test_named_combinations_are_predicted(core: Callable[..., Any], tmp_path: Path) -> None:
    """`core sample` gives cells of the conditions that are asked for, controls untouched behind them."""
    run, file, out = tmp_path / "run", tmp_path / "controls.h5ad", tmp_path / "made.h5ad"
    assert core("run", *SMALL, "--no-report", "-o", str(run)).code == 0
    told = json.loads((run / "preparation.json").read_text())["prepared"]
    one, other = told["perturbations"][1:3]
    values = np.random.default_rng(0).poisson(3.0, (5, len(told["genes"]))).astype(np.float32)
    obs = pd.DataFrame({"condition": ["control"] * 5}, index=[f"c{i}" for i in range(5)])
    anndata.AnnData(values, obs=obs, var=pd.DataFrame(index=told["genes"])).write_h5ad(file)
    asked = ["--mode=response", f"--data.asked.conditions={other}+{one}", "-o", str(out)]
    assert core("sample", str(run), str(file), *asked).code == 0
    made = anndata.read_h5ad(out)
    predicted = made[made.obs["condition"] == f"{one}+{other}"]
    assert predicted.n_obs == 5
    assert (np.asarray(predicted.X) >= 0).all()
    assert "raw" in made.layers
    refused = core("sample", str(run), str(file), *asked, "--force", "--data.cells=5")
    assert refused.code == 2
    assert "--data.cells does nothing here" in refused.err


def test_names_of_conditions_may_hold_slashes() -> None:
    """Figures are of every condition that is shown, whatever its name."""
    names = ("a/b", "A|CD4/CD8", "C")
    arrays = {"genes": np.array(["g1", "g2", "g3"]), "controls/": np.zeros((4, 3), np.float32)}
    for i, name in enumerate(names):
        for arm in ("true", "model", "ridge"):
            arrays[f"effect/{name}/{arm}"] = np.arange(3, dtype=np.float32) + i
        for arm in ("true", "model"):
            arrays[f"cells/{name}/{arm}"] = np.ones((4, 3), np.float32)
    drawn = [picture.draw() for picture in pictures(Evaluation(scores=(), arrays=arrays))]
    said = {text.get_text() for figure in drawn for axes in figure.axes for text in (axes.title,)}
    assert {*names} <= said
