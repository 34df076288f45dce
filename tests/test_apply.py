"""`core evaluate`, `core sample`, `core embed`: a finished run put to use."""

from __future__ import annotations

import itertools
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch

from core.cli import main
from core.cli.choose import resolve_stored
from core.train.session import open_run
from core.train.streams import Streams
from plugins.systems.spatial import generate
from small import SMALL

GENES, CELLS = 16, 60


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("trained") / "run"
    assert (
        main(
            [
                "run",
                *SMALL,
                "--train.steps=6",
                "--train.patience=1",
                "--train.validate_every=2",
                "--no-report",
                "-q",
                "-o",
                str(path),
            ]
        )
        == 0
    )
    return path


def genes(run: Path) -> list[str]:
    return json.loads((run / "preparation.json").read_text())["prepared"]["genes"]


@pytest.fixture
def cells(run: Path, tmp_path: Path) -> Callable[..., Path]:
    """A file of cells: two sections in mixed order, genes in another order than the run's."""

    def write(change: Callable[[ad.AnnData], Any] = lambda _: None, names: list[str] | None = None) -> Path:
        rng = np.random.default_rng(0)
        names = genes(run)[::-1] if names is None else names
        data = ad.AnnData(rng.poisson(3.0, (CELLS, len(names))).astype(np.float32))
        data.var_names, data.obs_names = names, [f"c{i}" for i in range(CELLS)]
        data.obs["section"] = ["b", "a", "a"] * (CELLS // 3)
        data.obsm["spatial"] = np.random.default_rng(1).normal(5000, 300, (CELLS, 2))
        change(data)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            data.write_h5ad(tmp_path / "cells.h5ad")
        return tmp_path / "cells.h5ad"

    return write


def read(path: Path) -> ad.AnnData:
    return ad.read_h5ad(path)


def test_evaluating_again_gives_the_same_numbers(run: Path, core: Callable[..., Any], tmp_path: Path) -> None:
    """Every score of the run's own evaluation comes again to the last digit, and the run directory is as it was."""
    before = {p: p.stat().st_mtime_ns for p in run.rglob("*")}
    said = core("evaluate", str(run), "-o", str(tmp_path / "again.json"))
    assert said.code == 0
    own, again = (json.loads(p.read_text()) for p in (run / "evaluation.json", tmp_path / "again.json"))
    assert again["scores"] == own["scores"]
    assert again["notes"] == own["notes"]
    assert {p: p.stat().st_mtime_ns for p in run.rglob("*")} == before


def test_other_metrics_and_splits(run: Path, core: Callable[..., Any], tmp_path: Path) -> None:
    """`--metrics` and `--split` choose what is measured, and where; a run's own split is said to be no test."""
    said = core(
        "evaluate", str(run), "--metrics", "rssd,pearson_cell", "--split", "train", "-o", str(tmp_path / "e.json")
    )
    assert said.code == 0
    told = json.loads((tmp_path / "e.json").read_text())
    assert {s["metric"] for s in told["scores"]} == {"rssd", "pearson_cell"}
    assert {u for s in told["scores"] for u in s["units"]} == {"section1", "section2"}
    assert "this is no test" in said.out


def test_other_data_are_refused(run: Path, core: Callable[..., Any]) -> None:
    """A run is evaluated on its own data only: elsewhere nobody knows what was held out."""
    said = core("evaluate", str(run), "--data.seed", "5")
    assert said.code == 2
    assert "not those that" in said.err


@pytest.mark.parametrize("draws", [1, 3])
def test_cells_are_placed_in_input_units(
    run: Path, core: Callable[..., Any], cells: Callable[..., Path], draws: int
) -> None:
    """Positions come about each section's centre, in the input's scale, draws beside their mean; X is as it was."""
    file = cells()
    out = file.with_name("placed.h5ad")
    assert core("sample", str(run), str(file), "--mode", "expr_to_pos", "-o", str(out), "--draws", str(draws)).code == 0
    given, placed = read(file), read(out)
    np.testing.assert_array_equal(placed.X, given.X)
    np.testing.assert_array_equal(placed.obsm["spatial_input"], given.obsm["spatial"])
    assert list(placed.obs_names) == list(given.obs_names)
    for section in ("a", "b"):
        here = (given.obs["section"] == section).to_numpy()
        np.testing.assert_allclose(placed.obsm["spatial"][here].mean(0), given.obsm["spatial"][here].mean(0), rtol=1e-6)
    scale = json.loads((run / "preparation.json").read_text())["prepared"]["scale"]
    assert 0.05 * scale < placed.obsm["spatial"].std() < 5000
    each = [placed.obsm[key] for key in placed.obsm if key.startswith("spatial_draw")]
    assert len(each) == (draws if draws > 1 else 0)
    if each:
        np.testing.assert_allclose(np.mean(each, 0), placed.obsm["spatial"], rtol=1e-9)
    told = placed.uns["cellcore"]
    assert told["mode"] == "expr_to_pos"
    assert told["run"] == json.loads((run / "run.json").read_text())["digest"]
    assert told["command"].startswith("core sample")
    assert told["version"]


def test_genes_are_matched_by_name(run: Path, core: Callable[..., Any], cells: Callable[..., Path]) -> None:
    """Neither the order of genes, nor genes that the run doesn't know, nor rows in another order move a cell."""
    outs = []
    rng = np.random.default_rng(1)
    values = {gene: rng.poisson(3.0, CELLS).astype(np.float32) for gene in [*genes(run), "alien"]}
    for names in (genes(run), ["alien", *genes(run)[::-1]]):
        file = cells(
            lambda data: data.X.__setitem__(slice(None), np.stack([values[g] for g in data.var_names], 1)), names
        )
        out = file.with_name(f"out{len(outs)}.h5ad")
        said = core("sample", str(run), str(file), "--mode", "expr_to_pos", "-o", str(out))
        assert said.code == 0
        outs.append(read(out).obsm["spatial"])
    np.testing.assert_array_equal(*outs)
    assert "1 genes of cells.h5ad are not in the run" in said.err


def test_prepared_as_the_training_cells_were(run: Path, tmp_path: Path) -> None:
    """A training section written to a file is read back as the very numbers that the model was trained on."""
    source = open_run(resolve_stored(run)).source
    table, told = source.table, json.loads((run / "preparation.json").read_text())["prepared"]
    data = ad.AnnData(table.counts.copy())
    data.var_names = list(table.genes)
    data.obs["section"] = [table.sections[code] for code in table.section_n]
    data.obsm["spatial"] = table.position_nP
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data.write_h5ad(tmp_path / "own.h5ad")
    items = resolve_stored(run).root.data.like(tmp_path / "own.h5ad", told, ("expression", "position"))
    assert items.known == {"expression", "position"}
    own = {
        unit.units[0]: unit for split in ("train", "valid", "test") for unit in source.split(split, Streams(0)).units()
    }
    unit = list(items.units())[-1]
    held = own["section3"]
    assert unit.units == held.units
    for field in ("expression", "position", "index"):
        torch.testing.assert_close(unit.fields[field], held.fields[field], rtol=0, atol=0)


def test_expression_from_position(run: Path, core: Callable[..., Any], cells: Callable[..., Path]) -> None:
    """`pos_to_expr` needs no expression: X has the run's genes on the training scale, a layer model units."""
    file = cells(lambda data: None, ["none of the run"])
    out = file.with_name("told.h5ad")
    assert core("sample", str(run), str(file), "--mode", "pos_to_expr", "-o", str(out), "--draws", "2").code == 0
    made, told = read(out), json.loads((run / "preparation.json").read_text())["prepared"]
    assert list(made.var_names) == genes(run)
    np.testing.assert_allclose(
        made.X, made.layers["model"] * np.array(told["std"]) + told["mean"], rtol=1e-4, atol=1e-5
    )
    np.testing.assert_allclose((made.layers["draw1"] + made.layers["draw2"]) / 2, made.X, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(made.obsm["spatial"], read(file).obsm["spatial"])


def test_what_the_file_says_of_its_cells_stays(run: Path, core: Callable[..., Any], cells: Callable[..., Path]) -> None:
    """Beside made expression stand the input's graphs, colours and notes on genes; its scale is told, its counts go."""

    def rich(data: ad.AnnData) -> None:
        data.var["symbol"] = [f"symbol of {name}" for name in data.var_names]
        data.var["variable"], data.var["number"] = [True, False, True], [3, 4, 5]
        data.var["kind"] = pd.Categorical(["x", "y", "x"])
        data.obsp["near"] = np.eye(CELLS)
        data.uns |= {"section_colors": np.array(["#000000", "#ffffff"]), "log1p": {"base": 2.0}}
        data.layers["counts"] = data.X.copy()

    file = cells(rich, [genes(run)[1], "of no run", genes(run)[0]])
    out = file.with_name("told.h5ad")
    assert core("sample", str(run), str(file), "--mode", "pos_to_expr", "-o", str(out)).code == 0
    made = read(out)
    assert list(made.var_names) == genes(run)
    assert [made.var["symbol"].iloc[i] for i in (0, 1)] == [f"symbol of {genes(run)[i]}" for i in (0, 1)]
    assert made.var.iloc[2:].isna().all(axis=None)
    assert made.var[["variable", "number", "kind"]].iloc[:2].to_numpy().tolist() == [[True, 5, "x"], [True, 3, "x"]]
    np.testing.assert_array_equal(made.obsp["near"], np.eye(CELLS))
    assert set(made.uns) == {"section_colors", "cellcore"}
    assert set(made.layers) == {"model"}
    assert made.uns["cellcore"]["X"].endswith("then log(1 + x)")


def test_joint_makes_cells_of_its_own(run: Path, core: Callable[..., Any], cells: Callable[..., Path]) -> None:
    """`joint` makes as many cells as each section has, under names of their own, and no mean of unrelated draws."""
    file = cells()
    out = file.with_name("made.h5ad")
    assert core("sample", str(run), str(file), "--mode", "joint", "-o", str(out)).code == 0
    made = read(out)
    assert made.obs["section"].value_counts().to_dict() == {"a": 40, "b": 20}
    assert not set(made.obs_names) & set(read(file).obs_names)
    said = core("sample", str(run), str(file), "--mode", "joint", "-o", str(out), "--force", "--draws", "2")
    assert said.code == 2
    assert "nothing in common" in said.err
    many = ("--draws", "100000000", "--force")
    said = core("sample", str(run), str(file), "--mode", "expr_to_pos", "-o", str(out), *many)
    assert said.code == 2
    assert "--draws takes a whole number of at most 10,000" in said.err


def test_embedding(run: Path, core: Callable[..., Any], cells: Callable[..., Path]) -> None:
    """Each cell gets a vector, a function of the file alone; positions count where they are, their shift not."""
    file = cells()
    found = {}
    changes: dict[str, Callable[[ad.AnnData], Any]] = {
        "as it is": lambda data: None,
        "shifted": lambda data: data.obsm.update(spatial=data.obsm["spatial"] + 1e3),
        "without": lambda data: data.obsm.pop("spatial"),
    }
    for name, change in changes.items():
        out = file.with_name("z.h5ad")
        assert core("embed", str(run), str(cells(change)), "-o", str(out), "--force").code == 0
        found[name] = read(out).obsm["X_cellcore"]
        assert found[name].shape == (CELLS, 16)
        assert np.isfinite(found[name]).all()
    np.testing.assert_allclose(found["shifted"], found["as it is"], atol=1e-4)
    assert np.abs(found["without"] - found["as it is"]).max() > 1e-3


def bare(data: ad.AnnData) -> None:
    del data.obsm["spatial"]


def spoiled(data: ad.AnnData) -> None:
    data.obsm["spatial"][3, 0] = np.nan


def solid(data: ad.AnnData) -> None:
    data.obsm["spatial"] = np.zeros((CELLS, 3))


def unknown(data: ad.AnnData) -> None:
    data.X[5, 2] = np.nan


def negative(data: ad.AnnData) -> None:
    data.X[:] -= 9


def doubled(data: ad.AnnData) -> None:
    data.var_names = [data.var_names[0]] * 2 + list(data.var_names[2:])


def alien(data: ad.AnnData) -> None:
    data.var_names = [f"ENSG{i}" for i in range(data.n_vars)]


@pytest.mark.parametrize(
    ("change", "mode", "says"),
    [
        (bare, "pos_to_expr", "obsm has no key 'spatial'"),
        (spoiled, "pos_to_expr", "NaN or infinite for 1 of 60 cells"),
        (solid, "pos_to_expr", "trained on positions of 2 numbers"),
        (unknown, "expr_to_pos", "holds 1 NaN or infinite value"),
        (negative, "expr_to_pos", "holds negative values"),
        (doubled, "expr_to_pos", "more than once"),
        (alien, "expr_to_pos", "has none of the 16 genes that the run was trained on"),
    ],
)
def test_unusable_files_get_one_sentence(
    run: Path,
    core: Callable[..., Any],
    cells: Callable[..., Path],
    change: Callable[[ad.AnnData], Any],
    mode: str,
    says: str,
) -> None:
    """What a mode cannot do without is refused by name, with exit status 2 and nothing written."""
    file = cells(change)
    said = core("sample", str(run), str(file), "--mode", mode, "-o", str(file.with_name("out.h5ad")))
    assert said.code == 2
    assert says in said.err
    assert said.err.count("\n") == 1
    assert [p.name for p in file.parent.iterdir()] == ["cells.h5ad"]


def test_what_a_mode_does_not_read_may_be_missing(
    run: Path, core: Callable[..., Any], cells: Callable[..., Path]
) -> None:
    """Cells without any place are placed, about 0."""
    file = cells(bare)
    out = file.with_name("out.h5ad")
    assert core("sample", str(run), str(file), "--mode", "expr_to_pos", "-o", str(out), "--draws", "0").code == 0
    assert np.abs(read(out).obsm["spatial"].mean(0)).max() < 1.0


def test_runs_that_cannot_be_used_say_why(
    run: Path, core: Callable[..., Any], cells: Callable[..., Path], tmp_path: Path
) -> None:
    """A run that is not done, one of an earlier version, and one without a checkpoint are told apart."""
    import shutil

    file, other = str(cells()), tmp_path / "other"
    shutil.copytree(run, other)
    words = ("sample", str(other), file, "--mode", "joint", "-o", str(tmp_path / "o.h5ad"))
    shutil.rmtree(other / "checkpoints")
    assert "holds no checkpoint" in core(*words).err
    (other / "preparation.json").unlink()
    assert "earlier version" in core(*words).err
    record = json.loads((other / "run.json").read_text())
    (other / "run.json").write_text(json.dumps(record | {"status": "stopped"}))
    said = core(*words)
    assert said.code == 2
    assert "is not complete (stopped)" in said.err


class Oracle:
    """Knows where cells sit, each time in another frame; it is asked for few cells at a time."""

    def __init__(self, dims: int) -> None:
        self.dims, self.largest = dims, 0

    def sample(
        self, model: Any, batch: Any, wanted: tuple[str, ...], generator: torch.Generator
    ) -> dict[str, torch.Tensor]:
        true = batch.fields["true"]
        self.largest = max(self.largest, true.shape[1])
        turn, _ = torch.linalg.qr(torch.randn(self.dims, self.dims, generator=generator))
        return {m: (true - true.mean(1, keepdim=True)) @ turn if m == "position" else true for m in wanted}

    expect = sample


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("cells_", [1, 2, 50, 333])
def test_patches_of_a_known_tissue_join_to_it(dims: int, cells_: int) -> None:
    """Parts that are right in frames of their own give the whole tissue up to a turn; no part is beyond the limit."""
    from core.kinds import Batch

    oracle, true = Oracle(dims), torch.randn(1, cells_, dims, generator=Streams(0).generator("x"))
    unit = Batch({"true": true}, torch.ones(1, cells_, dtype=torch.bool), ("u",))
    made = generate.generate(
        oracle, torch.nn.Linear(1, 1), unit, "expr_to_pos", Streams(0), index=0, draws=2, patch=40
    )["position"]
    assert oracle.largest <= 40
    for found in made:
        np.testing.assert_allclose(
            np.linalg.norm(found[:, None] - found, axis=-1), torch.cdist(true, true)[0].numpy(), atol=2e-3
        )
    np.testing.assert_allclose(made[0], made[1], atol=1e-3)
    told = generate.generate(
        oracle, torch.nn.Linear(1, 1), unit, "pos_to_expr", Streams(0), index=0, draws=1, patch=40
    )["expression"]
    np.testing.assert_array_equal(told[0], true[0].numpy())


def test_the_training_file_may_be_gone(core: Callable[..., Any], cells: Callable[..., Path], tmp_path: Path) -> None:
    """A run on a file that was deleted still places and embeds cells, read at the keys that the run was told."""

    def elsewhere(data: ad.AnnData) -> None:
        data.obsm["xy"] = data.obsm.pop("spatial")
        data.obs["slide"] = data.obs.pop("section")

    file, run = cells(elsewhere, [f"g{i}" for i in range(12)]), tmp_path / "run"
    keys = ("--data.position=xy", "--data.section=slide", "--data.sets.size=32")
    pieces = ("--width=16", "--depth=1", "--attention.heads=2", "--sampling=2", "--train.steps=2", "-q")
    assert core("run", "--data", str(file), *keys, *pieces, "-o", str(run)).code == 0
    other = tmp_path / "other.h5ad"
    file.rename(other)
    out = tmp_path / "out.h5ad"
    assert core("sample", str(run), str(other), "--mode", "expr_to_pos", "-o", str(out)).code == 0
    assert np.isfinite(read(out).obsm["spatial"]).all()
    assert core("embed", str(run), str(other), "-o", str(out), "--layer", "encoder", "--force").code == 0
    said = core("evaluate", str(run))
    assert said.code == 2
    assert "there is no such file" in said.err
    assert core("evaluate", str(run), "--data", str(other)).code == 0


TRAINED_WITH = [
    "--path cond_ot",
    "--mode expr_to_pos",
    "--masking.shape random",
    "--train.lr 3",
    "--time shared",
    "--seed 5",
]
OWN = {("sample", "--mode expr_to_pos"), ("sample", "--seed 5")}
"""flags of a verb itself, which say something else there"""


@pytest.mark.parametrize(
    ("verb", "words"), sorted({*itertools.product(["evaluate", "sample", "embed"], TRAINED_WITH)} - OWN)
)
def test_what_a_model_was_trained_with_is_not_said_anew(
    run: Path, core: Callable[..., Any], cells: Callable[..., Path], verb: str, words: str
) -> None:
    """A flag that would do nothing to a trained model, or give its weights another meaning, is refused by name."""
    file = cells()
    places = [str(run)] if verb == "evaluate" else [str(run), str(file), "-o", str(file.with_name("o.h5ad"))]
    said = core(verb, *places, *(["--mode", "joint"] if verb == "sample" else []), *words.split())
    assert said.code == 2
    assert said.err.startswith(f"core: {words.split()[0].lstrip('-')} = ")
    assert "was trained with" in said.err
    assert ("--sampling" in said.err) == (verb != "embed")
    assert not file.with_name("o.h5ad").exists()


def test_how_a_model_is_sampled_may_be_said_anew(run: Path, core: Callable[..., Any], tmp_path: Path) -> None:
    """More solver steps change samples, and the mean that needs none of them stays as it is."""
    told = {}
    for steps in ("2", "7"):
        out = tmp_path / f"{steps}.json"
        assert core("evaluate", str(run), "--sampling", steps, "--metrics", "distance_error", "-o", str(out)).code == 0
        told[steps] = {s["arm"]: s["value"] for s in json.loads(out.read_text())["scores"]}
    assert told["2"]["model"] == told["7"]["model"]
    assert told["2"]["model, one sample"] != told["7"]["model, one sample"]


@pytest.mark.parametrize("flag", ["--metrics=rssd", "--recipe=luna", "--data=other.h5ad", "--data.sets.size=5"])
def test_flags_that_do_nothing_are_refused(
    run: Path, core: Callable[..., Any], cells: Callable[..., Path], tmp_path: Path, flag: str
) -> None:
    """A flag of judging or of the training data does nothing to a trained model: refused, and nothing is written."""
    out = tmp_path / "out.h5ad"
    for verb in (("sample", "--mode", "expr_to_pos"), ("embed",)):
        said = core(verb[0], str(run), str(cells()), *verb[1:], "-o", str(out), flag)
        assert said.code == 2
        assert f"{flag.partition('=')[0]} does nothing here" in said.err
        assert not out.exists()


def test_results_have_a_place_before_the_work(run: Path, core: Callable[..., Any], cells: Callable[..., Path]) -> None:
    """A place without a folder, or of another format than the input, is refused before anything is read or scored."""
    file = cells()
    said = core("evaluate", str(run), "-o", str(file.parent / "none" / "e.json"))
    assert said.code == 2
    assert "its folder is not there" in said.err
    assert not said.out
    said = core("sample", str(run), str(file), "--mode", "expr_to_pos", "-o", str(file.with_name("x.csv")))
    assert said.code == 2
    assert "ends in .h5ad" in said.err


@pytest.mark.parametrize("words", ["sample FILE --mode=expr_to_pos --draws=0", "embed FILE", "evaluate --metrics=rssd"])
def test_a_file_is_written_over_only_with_force(
    run: Path, core: Callable[..., Any], cells: Callable[..., Path], words: str
) -> None:
    """A file that is there stays as it was, to the byte, and the message says the way out; --force replaces it."""
    file = cells()
    verb, *rest = (str(file) if word == "FILE" else word for word in words.split())
    out = file.with_name("mine.json" if verb == "evaluate" else "mine.h5ad")
    out.write_bytes(b"mine")
    said = core(verb, str(run), *rest, "-o", str(out))
    assert said.code == 2
    assert f"-o {out} is there already" in said.err
    assert "--force" in said.err
    assert out.read_bytes() == b"mine"
    assert core(verb, "--force", str(run), *rest, "-o", str(out)).code == 0
    assert out.stat().st_size > 100
    assert "--force" in core(verb, "--help").out
