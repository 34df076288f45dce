"""A trained model of system `perturb` outside its run: exported, inspected, put to files in another order."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from response_run import SMALL, exported
from screens import GENES, adata, saved

ORDER = np.random.default_rng(5).permutation(len(GENES))


pytestmark = pytest.mark.usefixtures("unprobed")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a screen, the run `run` trained on it, and its exported model `model`."""
    folder = tmp_path_factory.mktemp("life")
    exported(folder)
    new = adata(("ctrl", "B", "A+B"), cells=5, seed=3)
    new.obs_names = [f"new{i}" for i in range(len(new))]
    saved(folder / "new.h5ad", new)
    return folder


def sampled(core: Callable[..., Any], run: Path, file: Path, out: Path, *words: str) -> anndata.AnnData:
    said = core("sample", str(run), str(file), "--mode=response", "-o", str(out), "--force", *words)
    assert said.code == 0, said.err
    return anndata.read_h5ad(out)


def scores(core: Callable[..., Any], run: Path, out: Path, *words: str) -> list[dict[str, Any]]:
    said = core("evaluate", str(run), "-o", str(out), "--force", *words)
    assert said.code == 0, said.err
    return json.loads(out.read_text())["scores"]


class TestExport:
    """`core export` and `core inspect`."""

    def test_the_folder_describes_itself(self, home: Path) -> None:
        """Genes in order, perturbations, statistics, split, configuration, versions: in forms that need no cellcore."""
        model = home / "model"
        told = json.loads((model / "preparation.json").read_text())["prepared"]
        assert (model / "genes.txt").read_text().split("\n")[:-1] == list(GENES) == told["genes"]
        assert json.loads((model / "perturbations.json").read_text()) == ["control", *"ABCDE"]
        numbers = load_file(model / "statistics.safetensors")
        assert {*numbers} == {"mean", "sd", "zero_rate"}
        np.testing.assert_array_equal(numbers["mean"], told["mean"])
        split = json.loads((model / "split.json").read_text())
        assert {*split["train"], *split["valid"], *split["test"]} == {*split["data"]["conditions"]}
        record = json.loads((model / "run.json").read_text())
        assert {"cellcore"} <= record["environment"]["distributions"].keys()
        assert record["seed"] == 0
        assert record["files"].keys() == {path.name for path in model.iterdir()} - {"run.json"}
        endings = {path.suffix for path in model.iterdir()}
        assert endings == {".json", ".txt", ".toml", ".safetensors"}

    def test_its_split_is_a_split_file(self, home: Path, core: Callable[..., Any], tmp_path: Path) -> None:
        """`--data.cut.by file` trains on the conditions that the exported model was trained on."""
        words = [f"--data={home}/train.h5ad", "--data.cut.by=file", f"--data.cut.file={home}/model/split.json"]
        assert core("run", *SMALL, *words, "-o", str(tmp_path / "again")).code == 0
        again = json.loads((tmp_path / "again" / "preparation.json").read_text())["prepared"]["split"]
        split = json.loads((home / "model" / "split.json").read_text())
        assert all(again[name] == split[name] for name in ("train", "valid", "test", "categories"))

    def test_it_stands_for_the_run(self, home: Path, core: Callable[..., Any], tmp_path: Path) -> None:
        """Scores and samples are those of the run to the last digit, from weights alone."""
        assert scores(core, home / "model", tmp_path / "a.json") == scores(core, home / "run", tmp_path / "b.json")
        asked = ["--data.asked.conditions=A+E,C"]
        one, other = (
            sampled(core, home / n, home / "new.h5ad", tmp_path / f"{n}.h5ad", *asked) for n in ("run", "model")
        )
        np.testing.assert_array_equal(one.X, other.X)
        np.testing.assert_array_equal(one.layers["raw"], other.layers["raw"])

    def test_inspect_tells_what_it_is_of(self, home: Path, core: Callable[..., Any]) -> None:
        """Run and exported folder alike, without their data."""
        for name in ("run", "model"):
            said = core("inspect", str(home / name))
            assert said.code == 0
            for text in ("perturb, seed 0", "12: gene0, gene1", "6: control, A, B", "scheme", "torch", "SHA-256"):
                assert text in said.out

    @pytest.mark.parametrize("name", ["genes.txt", "fitted.safetensors", "model.safetensors", "config.toml"])
    def test_changed_files_are_refused(self, name: str, home: Path, core: Callable[..., Any], tmp_path: Path) -> None:
        """A file of another gene list, a damaged or a missing one: one sentence, by every verb that loads."""
        model = tmp_path / "model"
        shutil.copytree(home / "model", model)
        content = (model / name).read_bytes()
        (model / name).write_bytes(content[:-9] + b"\n" * 9)
        sample = ("sample", str(model), str(home / "new.h5ad"), "--mode=response", "-o", str(tmp_path / "o.h5ad"))
        for words in (sample, ("evaluate", str(model)), ("inspect", str(model))):
            if name == "config.toml" and words[0] != "inspect":
                continue  # it is read first, and has words of its own for what is no TOML
            said = core(*words)
            assert said.code == 2
            assert f"{name} is not the file that the model was written with" in said.err
            assert said.err.count("\n") == 1
        (model / name).unlink()
        assert f"{name} is missing" in core("inspect", str(model)).err
        assert core(*sample).code == 2
        assert not (tmp_path / "o.h5ad").exists()

    def test_weights_of_another_run_are_refused(self, home: Path, core: Callable[..., Any], tmp_path: Path) -> None:
        """A run's own directory is sealed as well: what was fitted cannot be another run's."""
        run = tmp_path / "run"
        shutil.copytree(home / "run", run)
        fitted = run / "fitted.safetensors"
        fitted.unlink()
        said = core("evaluate", str(run))
        assert said.code == 2
        assert "fitted.safetensors is missing" in said.err

    def test_what_cannot_be_exported(self, home: Path, core: Callable[..., Any], tmp_path: Path) -> None:
        """A target that is there or nowhere, no run, flags; nothing is left behind, and training cannot go on."""
        run = str(home / "run")
        cases = [
            ([run], "where to?"),
            ([run, "-o", str(home / "model")], "is there already"),
            ([run, "-o", str(tmp_path / "no" / "model")], "there is no folder"),
            ([str(tmp_path), "-o", str(tmp_path / "model")], "holds no run"),
            ([run, "-o", str(tmp_path / "model"), "--seed=1"], "no parameters"),
        ]
        for words, says in cases:
            said = core("export", *words)
            assert said.code == 2
            assert says in said.err
        assert [*tmp_path.iterdir()] == []
        for verb in ("resume", "report"):
            said = core(verb, str(home / "model"))
            assert said.code == 2
            assert "is an exported model" in said.err


class TestOrder:
    """Genes of a file in another order than the model's."""

    def test_the_same_screen_is_judged_alike(self, home: Path, core: Callable[..., Any], tmp_path: Path) -> None:
        """Every score of `core evaluate` is the same when the columns of the data file are permuted."""
        file = saved(tmp_path / "permuted.h5ad", adata()[:, ORDER].copy())
        again = scores(core, home / "run", tmp_path / "again.json", f"--data={file}")
        own = scores(core, home / "run", tmp_path / "own.json")
        assert [(s["arm"], s["metric"]) for s in again] == [(s["arm"], s["metric"]) for s in own]
        np.testing.assert_allclose(
            [s["value"] or 0 for s in again], [s["value"] or 0 for s in own], rtol=1e-4, atol=1e-6
        )

    def test_predictions_are_by_gene(self, home: Path, core: Callable[..., Any], tmp_path: Path) -> None:
        """`core sample` of permuted control cells gives each gene what it gave before."""
        new = anndata.read_h5ad(home / "new.h5ad")
        file = saved(tmp_path / "permuted.h5ad", new[:, ORDER].copy())
        words = ["--data.asked.conditions=A+E"]
        one = sampled(core, home / "model", home / "new.h5ad", tmp_path / "one.h5ad", *words)
        other = sampled(core, home / "model", file, tmp_path / "other.h5ad", *words)
        np.testing.assert_allclose(other[:, one.var_names].X, one.X, rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize(
        ("change", "says"),
        [
            (lambda a: a[:, 1:].copy(), "1 of the run's 12 genes are not there: gene"),
            (lambda a: anndata.AnnData(a.X + (np.arange(12) == 4), a.obs, a.var), "their expression differs"),
            (lambda a: a[:-1].copy(), "their split differ"),
            (lambda a: a[(a.obs["condition"] != "E").to_numpy()].copy(), "differ"),
        ],
    )
    def test_another_screen_is_refused(
        self, change: Callable[..., Any], says: str, home: Path, core: Callable[..., Any], tmp_path: Path
    ) -> None:
        """Fewer genes, other values, other cells, other conditions: nobody knows what was held out there."""
        file = saved(tmp_path / "other.h5ad", change(adata()[:, ORDER].copy()))
        said = core("evaluate", str(home / "run"), f"--data={file}")
        assert said.code == 2
        assert says in said.err
        assert said.err.count("\n") == 1


class TestEmbed:
    """`core embed`: the network's state of a cell, and the extractor's latents."""

    def embedded(
        self, core: Callable[..., Any], run: Path, file: Path, out: Path, *words: str
    ) -> tuple[np.ndarray, anndata.AnnData]:
        said = core("embed", str(run), str(file), "-o", str(out), "--force", *words)
        assert said.code == 0, said.err
        got = anndata.read_h5ad(out)
        return np.asarray(got.obsm["X_cellcore"]), got

    def test_each_cell_gets_a_vector(self, home: Path, core: Callable[..., Any], tmp_path: Path) -> None:
        """A vector a cell in the order of the file, the file's own content as it was, and who made it."""
        given = anndata.read_h5ad(home / "new.h5ad")
        for layer, width in (("last", 8), ("latent", 2)):
            z_ND, got = self.embedded(core, home / "model", home / "new.h5ad", tmp_path / "z.h5ad", f"--layer={layer}")
            assert z_ND.shape == (len(given), width)
            assert np.isfinite(z_ND).all()
            assert z_ND.std(0).min() > 0
            np.testing.assert_array_equal(got.X, given.X)
            assert got.obs_names.tolist() == given.obs_names.tolist()
            told = got.uns["cellcore"]
            assert (told["system"], told["layer"]) == ("perturb", layer)
            assert told["run"] == json.loads((home / "run" / "run.json").read_text())["digest"]

    def test_a_vector_is_the_cells_own(self, home: Path, core: Callable[..., Any], tmp_path: Path) -> None:
        """Latents hang on neither the other cells nor the order of genes nor how many go into a call."""
        whole_ND, given = self.embedded(
            core, home / "model", home / "new.h5ad", tmp_path / "z.h5ad", "--layer=latent", "--patch=4"
        )
        some = saved(tmp_path / "some.h5ad", given[3:9, ORDER].copy())
        part_ND, _ = self.embedded(core, home / "model", some, tmp_path / "y.h5ad", "--layer=latent")
        np.testing.assert_allclose(part_ND, whole_ND[3:9], rtol=1e-4, atol=1e-6)

    def test_latents_are_the_mean_over_covered_genes(
        self, home: Path, core: Callable[..., Any], tmp_path: Path
    ) -> None:
        """The vector of `latent`, from the extractor's own state and the mean of the training cells."""
        z_ND, given = self.embedded(core, home / "model", home / "new.h5ad", tmp_path / "z.h5ad", "--layer=latent")
        from core.cli.apply import open_trained

        trained = open_trained(home / "model", [], sampled=False)
        counts = np.asarray(given.X, np.float64)
        logs = torch.from_numpy(np.log1p(1e4 * counts / counts.sum(1, keepdims=True)).astype(np.float32))
        fitted = trained.model.fitted
        found = fitted(logs - torch.from_numpy(trained.model.mean_G))
        slow = [(z[on] / fitted.std).mean(0) for z, on in zip(found.z_NKD, found.covered_NK, strict=True)]
        np.testing.assert_allclose(z_ND, torch.stack(slow), rtol=1e-4, atol=1e-5)

    def test_the_network_is_told_the_perturbations(self, home: Path, core: Callable[..., Any], tmp_path: Path) -> None:
        """Of `last` a relabelled cell gets another vector, of `latent` the same: it never reads conditions."""
        other = anndata.read_h5ad(home / "new.h5ad")
        other.obs["condition"] = other.obs["condition"].astype(str).replace({"B": "C"})
        file = saved(tmp_path / "other.h5ad", other)
        changed = (anndata.read_h5ad(home / "new.h5ad").obs["condition"] == "B").to_numpy()
        for layer in ("last", "latent"):
            z, y = (
                self.embedded(core, home / "model", path, tmp_path / "z.h5ad", f"--layer={layer}")[0]
                for path in (home / "new.h5ad", file)
            )
            assert (np.abs(z - y).max(1) > 0)[changed].all() == (layer == "last")

    def test_cells_of_any_condition_have_latents(self, home: Path, core: Callable[..., Any], tmp_path: Path) -> None:
        """Latents need neither controls nor known perturbations; the network's state needs both, and says so."""
        alien = anndata.read_h5ad(home / "new.h5ad")
        alien = alien[(alien.obs["condition"] != "ctrl").to_numpy()].copy()
        alien.obs["condition"] = alien.obs["condition"].astype(str).replace({"B": "Q"})
        file, out = saved(tmp_path / "alien.h5ad", alien), tmp_path / "z.h5ad"
        assert len(self.embedded(core, home / "model", file, out, "--layer=latent")[0]) == len(alien)
        out.unlink()
        for layer, says in (("last", "no cell is a control"), ("lattent", "mean 'latent'")):
            said = core("embed", str(home / "model"), str(file), "-o", str(out), f"--layer={layer}")
            assert said.code == 2
            assert says in said.err
            assert not out.exists()


class TestLists:
    """`core sample RUN LIST`: conditions of a list, control cells of the training data."""

    def test_a_list_becomes_anndata(self, home: Path, core: Callable[..., Any], tmp_path: Path) -> None:
        """What is written is AnnData whatever the list is, and is what flags for the training file give."""
        (tmp_path / "list.csv").write_text("condition,cells\nE+A,3\ncontrol,2\nC,\n")
        made = sampled(core, home / "run", tmp_path / "list.csv", tmp_path / "one.h5ad")
        assert made.obs["condition"].tolist() == ["A+E"] * 3 + ["control"] * 2 + ["C"] * 6 + ["control"] * 6
        assert made.obs["predicted"].tolist() == [True] * 11 + [False] * 6
        words = [f"--data.asked.conditions={tmp_path}/list.csv"]
        other = sampled(core, home / "run", home / "train.h5ad", tmp_path / "other.h5ad", *words)
        np.testing.assert_array_equal(made.X, other.X)
        (tmp_path / "one.csv").touch()
        said = core("sample", str(home / "run"), str(tmp_path / "list.csv"), "--mode=response", "-o", "one.csv")
        assert said.code == 2
        assert "what is written is AnnData; name a file that ends in .h5ad" in said.err

    def test_control_cells_that_are_gone(self, home: Path, core: Callable[..., Any], tmp_path: Path) -> None:
        """Without the training data a list needs control cells of a file, and is told how to get them."""
        (tmp_path / "list.csv").write_text("A+E\n")
        shutil.copytree(home / "model", tmp_path / "model")
        (home / "train.h5ad").rename(home / "away.h5ad")
        try:
            words = ("sample", str(tmp_path / "model"), str(tmp_path / "list.csv"), "--mode=response", "-o")
            said = core(*words, str(tmp_path / "out.h5ad"))
            again = core("evaluate", str(tmp_path / "model"))
        finally:
            (home / "away.h5ad").rename(home / "train.h5ad")
        assert said.code == again.code == 2
        assert "list.csv lists conditions, and control cells are to come from the training data" in said.err
        assert "--data.asked.conditions" in said.err
        assert "if the data were moved" in again.err
        assert not (tmp_path / "out.h5ad").exists()
        sampled(core, tmp_path / "model", home / "new.h5ad", tmp_path / "o.h5ad", "--data.asked.conditions=A+E")
