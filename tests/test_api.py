"""`core.api`: a trained model in Python, with AnnData in and out."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest
import torch

from core.api import Model, load
from core.cli import main
from core.errors import UserError
from response_run import exported
from screens import GENES, adata, saved
from small import SMALL as SPATIAL

DOCS = Path(__file__).resolve().parents[1] / "docs" / "perturb.md"


pytestmark = pytest.mark.usefixtures("unprobed")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a screen and its exported model."""
    folder = tmp_path_factory.mktemp("api")
    exported(folder)
    return folder


@pytest.fixture(scope="module")
def model(home: Path) -> Model:
    return load(home / "model")


@pytest.fixture
def cells() -> anndata.AnnData:
    new = adata(("ctrl", "B"), cells=5, seed=3)
    new.obs_names = [f"new{i}" for i in range(len(new))]
    return new


def test_the_example_of_the_docs_runs(home: Path, cells: anndata.AnnData, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lines of docs/perturb.md, as they stand, give cells, effects and embeddings."""
    found = re.search(r"## In Python\n\n((?:    .*\n|\n)+)", DOCS.read_text("utf-8"))
    assert found
    monkeypatch.chdir(home)
    names: dict[str, Any] = {"cells": cells}
    exec(textwrap.dedent(found[1]), names)
    made = names["made"]
    assert made.obs["condition"].value_counts().to_dict() == {"A+B": 100, "C": 100, "control": 5}
    assert names["effect"].shape == (len(GENES),)
    assert names["z"].shape == (10, 8)


def test_it_gives_what_the_command_writes(
    home: Path, model: Model, cells: anndata.AnnData, core: Callable[..., Any], tmp_path: Path
) -> None:
    """`predict` and `embed` are `core sample` and `core embed` to the last digit, rows, names and all."""
    file, out = saved(tmp_path / "cells.h5ad", cells), tmp_path / "out.h5ad"
    asked = ["--mode=response", "--data.asked.conditions=E+A,C", "--data.asked.cells=7", "--seed=4"]
    assert core("sample", str(home / "run"), str(file), *asked, "-o", str(out)).code == 0
    written, made = anndata.read_h5ad(out), model.predict(["E+A", "C"], cells, cells=7, seed=4)
    np.testing.assert_array_equal(made.X, written.X)
    np.testing.assert_array_equal(made.layers["raw"], written.layers["raw"])
    assert made.obs.astype(str).equals(written.obs.astype(str))
    assert made.obs_names.is_unique
    assert made.uns["cellcore"]["conditions"] == "E+A, C"
    assert made.uns["cellcore"]["run"] == written.uns["cellcore"]["run"]
    out.unlink()
    assert core("embed", str(home / "run"), str(file), "-o", str(out)).code == 0
    np.testing.assert_array_equal(model.embed(cells).obsm["X_cellcore"], anndata.read_h5ad(out).obsm["X_cellcore"])


def test_nothing_of_the_callers_changes(model: Model, cells: anndata.AnnData, tmp_path: Path) -> None:
    """The given cells, and torch's own setting of exactness, are as they were."""
    before, setting = cells.copy(), torch.get_deterministic_debug_mode()
    torch.set_deterministic_debug_mode("warn")
    try:
        model.predict("A", cells[cells.obs["condition"] == "ctrl"])
        model.embed(cells, "latent")
        assert torch.get_deterministic_debug_mode() == 1
    finally:
        torch.set_deterministic_debug_mode(setting)
    np.testing.assert_array_equal(cells.X, before.X)
    assert cells.obs.equals(before.obs)
    assert cells.uns.keys() == before.uns.keys()


def test_control_cells_come_from_the_training_data(model: Model, cells: anndata.AnnData) -> None:
    """Without control cells those that were trained on are used; untouched copies of them stand at the end."""
    made = model.predict(["A+E"], cells=3)
    assert made.obs["predicted"].tolist() == [True] * 3 + [False] * 6
    controls = adata()[adata().obs["condition"] == "ctrl"]
    assert made.obs_names[3:].tolist() == controls.obs_names.tolist()
    counts = np.asarray(controls.X, np.float64)
    np.testing.assert_allclose(made.X[3:], np.log1p(1e4 * counts / counts.sum(1, keepdims=True)), rtol=1e-5)
    assert model.preparation["genes"] == made.var_names.tolist()


def test_how_a_file_differs_is_warned_of(model: Model, cells: anndata.AnnData) -> None:
    """Genes that are missing are told as a warning."""
    with pytest.warns(UserWarning, match="2 of the 12 genes of the run are not in"):
        model.predict(["A"], cells[:, 2:])


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda m, c: m.predict([], c), "conditions is empty"),
        (lambda m, c: m.predict(["", " "]), "conditions is empty"),
        (lambda m, c: m.predict(["A", "A+"]), r"^conditions\[1\]: .*'A\+'"),
        (lambda m, c: m.predict(["A+Bb"], c), r"'Bb' of 'A\+Bb' is not among the 5 .*mean 'B'"),
        (lambda m, c: m.predict(["A+B", "B+A"], c), "is asked for twice"),
        (lambda m, c: m.predict([("A", "B")], c), "each is a text such as"),
        (lambda m, c: m.predict(["A"], c, cells=-1), "cells must be >= 0"),
        (lambda m, c: m.predict(["A"], 3), "not as int"),
        (lambda m, c: m.predict(["A"], "nowhere.h5ad"), "no such file"),
        (lambda m, c: m.sample(c, "respond"), "mean 'response'"),
        (lambda m, c: m.sample(c, "response", draws=0), "--draws 0"),
        (lambda m, c: m.embed(c, "first"), "choose one of last, latent"),
    ],
)
def test_mistakes_are_one_sentence(
    call: Callable[[Model, anndata.AnnData], Any], says: str, model: Model, cells: anndata.AnnData
) -> None:
    """A `UserError` says what was given and what to do."""
    with pytest.raises(UserError, match=says) as error:
        call(model, cells)
    assert "\n" not in str(error.value)


def test_flags_and_runs_that_do_not_fit(home: Path) -> None:
    """What may be said of a trained model may be said to `load`, and nothing else."""
    assert load(home / "run", "--sampling=1")._trained.system.sampling == 1
    with pytest.raises(UserError, match="was trained with 8"):
        load(home / "run", "--width=16")
    with pytest.raises(UserError, match="holds no run"):
        load(home)


def test_other_systems_sample_and_predict_no_conditions(tmp_path: Path) -> None:
    """A spatial model places cells that are given as AnnData; it is asked for no conditions."""
    words = ["run", *SPATIAL, "--train.steps=2", "--no-report", "-q", "-o", str(tmp_path / "run")]
    assert main(words) == 0
    model = load(tmp_path / "run")
    genes = model.preparation["genes"]
    cells = anndata.AnnData(np.random.default_rng(0).poisson(3.0, (20, len(genes))).astype(np.float32))
    cells.var_names = genes
    cells.obs["section"] = "one"
    assert model.sample(cells, "expr_to_pos").obsm["spatial"].shape == (20, 2)
    with pytest.raises(UserError, match="spatial, predicts no conditions"):
        model.predict(["A"], cells)
