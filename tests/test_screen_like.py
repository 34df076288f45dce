"""Predicting conditions from control cells of a file, and what is written."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import anndata
import attrs
import numpy as np
import pytest

from core.errors import UserError
from plugins.data.perturb_h5ad import PerturbH5ad
from plugins.data.screen_asked import Asked
from plugins.data.screen_like import NewScreen
from plugins.data.screen_sets import ScreenSource
from screens import GENES, adata, read, saved, simulated

MADE_FROM = frozenset({"control", "level", "perturbation"})


@pytest.fixture(autouse=True)
def unprobed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files written here are sound: the look at their structure, a process each, is left out."""
    monkeypatch.setattr("plugins.data.anndata_file._probe", lambda path: None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("screens")
    saved(path / "train.h5ad", adata())
    new = adata(("ctrl", "B", "ctrl+A"), cells=5, seed=3)
    new.obs_names = [f"new{i}" for i in range(len(new))]
    saved(path / "new.h5ad", new[:, ::-1].copy())
    return path


@pytest.fixture(scope="module")
def data(folder: Path) -> PerturbH5ad:
    return read(folder / "train.h5ad", covariates=("kind",))


@pytest.fixture(scope="module")
def source(data: PerturbH5ad) -> ScreenSource:
    return data.open()


@pytest.fixture(scope="module")
def told(source: ScreenSource) -> Mapping[str, Any]:
    return source.preparation()


def asking(data: PerturbH5ad, *conditions: str, cells: int = 0) -> PerturbH5ad:
    return attrs.evolve(data, asked=Asked(conditions=conditions, cells=cells))


def test_a_file_of_cells_asks_for_its_own_conditions(folder: Path, data: PerturbH5ad, told: Mapping) -> None:
    """As many cells of each as the file has, in every stratum where it has them; genes are matched by name."""
    items = data.like(folder / "new.h5ad", told, MADE_FROM)
    assert items.known == {"control", "level", "perturbation", "covariate"}
    assert items.notes == ()
    units = {unit.units[0]: unit for unit in items.units()}
    assert {name: unit.real_BN.shape[1] for name, unit in units.items()} == {"A|B": 2, "A|T": 3, "B|B": 3, "B|T": 2}
    index = np.concatenate([unit.fields["index"][0] for unit in units.values()])
    assert index.tolist() == list(range(10))
    new = anndata.read_h5ad(folder / "new.h5ad")[:, list(GENES)]
    counts = np.asarray(new.X, np.float64)
    logs = np.log1p(1e4 * counts / counts.sum(1, keepdims=True)).astype(np.float32)
    for name, unit in units.items():
        mine = (new.obs["condition"] == "ctrl").to_numpy() & (new.obs["kind"] == name[-1]).to_numpy()
        for row in unit.fields["level"][0].numpy():
            np.testing.assert_allclose(row, logs[mine].mean(0), rtol=1e-5)
        for row in unit.fields["control"][0].numpy():
            assert np.isclose(logs[mine], row, rtol=1e-5).all(axis=1).any()
        assert unit.fields["perturbation"].unique(dim=1).tolist() == [[[told["perturbations"].index(name[0]), 0]]]
        assert not unit.fields["expression"].any()


def test_conditions_that_are_asked_for(folder: Path, data: PerturbH5ad, told: Mapping) -> None:
    """In any spelling, new doubles too, in every stratum or in the one that is named, so many cells as is said."""
    chosen = asking(data, "B+A", "ctrl+C|T", "E+D", cells=7)
    units = {unit.units[0]: unit for unit in chosen.like(folder / "new.h5ad", told, MADE_FROM).units()}
    assert [*units] == ["A+B|B", "A+B|T", "C|T", "D+E|B", "D+E|T"]
    assert {unit.real_BN.shape[1] for unit in units.values()} == {7}
    own = attrs.evolve(data, asked=Asked(cells=6)).like(folder / "new.h5ad", told, MADE_FROM)
    assert [unit.real_BN.shape[1] for unit in own.units()] == [6] * 4
    assert isinstance(own, NewScreen)
    assert {part.label for part in own.parts} == {"B", "ctrl+A"}
    first = [*asking(data, "A").like(folder / "new.h5ad", told, MADE_FROM).units()]
    assert [unit.real_BN.shape[1] for unit in first] == [2, 3]


def test_control_cells_are_used_alike(folder: Path, data: PerturbH5ad, told: Mapping) -> None:
    """Whole rounds through the pool: each control cell comes as often as any other, give or take one."""
    for unit in asking(data, "A+B", cells=11).like(folder / "new.h5ad", told, MADE_FROM).units():
        counts = np.unique(unit.fields["control"][0].numpy(), axis=0, return_counts=True)[1]
        assert counts.sum() == 11
        assert counts.max() - counts.min() <= 1


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("plain.txt", "B+A\n\nE+D\n"),
        ("table.csv", "condition,cells,kind\nA+B,4.0,T\nA+B,,B\nD+E,4,\n"),
        ("table.tsv", "kind\tcondition\nT\tA+B\nB\tctrl+A+B\n\tD+E\n"),
        ("marked.csv", "\ufeffcondition\nA+B\nD+E\n"),
        ("german.csv", "kind;condition\nT;A+B\nB;A+B\n;D+E\n"),
        ("quoted.csv", '"condition";"cells"\n"A+B";\n"D+E";\n'),
    ],
)
def test_lists_of_conditions(name: str, text: str, folder: Path, data: PerturbH5ad, told: Mapping) -> None:
    """Lines or a table, with control cells of the training data, or of the file beside it."""
    path = folder / name
    path.write_text(text)
    wanted = {"A+B|B", "A+B|T", "D+E|B", "D+E|T"}
    from_home = data.like(path, told, MADE_FROM)
    assert {unit.units[0] for unit in from_home.units()} == wanted
    beside = asking(data, str(path)).like(folder / "new.h5ad", told, MADE_FROM)
    assert {unit.units[0] for unit in beside.units()} == wanted
    if "4" in text:
        assert [unit.real_BN.shape[1] for unit in beside.units()] == [4, 2, 4, 4]


def test_what_is_written(folder: Path, data: PerturbH5ad, told: Mapping, tmp_path: Path) -> None:
    """Predicted cells, raw values, the source of each, controls untouched behind them, who made it, unique names."""
    items = asking(data, "B+A|T", "ctrl+C", cells=4).like(folder / "new.h5ad", told, MADE_FROM)
    rng = np.random.default_rng(0)
    made = {name: rng.random((1, 12, len(GENES))).astype(np.float32) for name in ("expression", "raw")}
    out = tmp_path / "out.h5ad"
    items.save(out, made, {"run": "abc", "seed": 1}, fresh=True)
    got = anndata.read_h5ad(out)
    assert got.var_names.tolist() == list(GENES)
    assert got.obs_names.is_unique
    predicted = got[got.obs["predicted"].to_numpy()]
    np.testing.assert_array_equal(predicted.X, made["expression"][0])
    np.testing.assert_array_equal(predicted.layers["raw"], made["raw"][0])
    assert predicted.obs["condition"].tolist() == ["A+B"] * 4 + ["C"] * 8
    assert predicted.obs["label"].tolist() == ["B+A|T"] * 4 + ["ctrl+C"] * 8
    assert predicted.obs["kind"].tolist() == ["T"] * 4 + ["B"] * 4 + ["T"] * 4
    given = anndata.read_h5ad(folder / "new.h5ad")
    assert given.obs_names[predicted.obs["source_row"].to_numpy()].tolist() == predicted.obs["source_control"].tolist()
    assert (given.obs["condition"].iloc[predicted.obs["source_row"].to_numpy()] == "ctrl").all()
    assert (given.obs["kind"].iloc[predicted.obs["source_row"].to_numpy()].to_numpy() == predicted.obs["kind"]).all()
    controls = got[~got.obs["predicted"].to_numpy()]
    assert set(controls.obs["condition"]) == {"control"}
    everyone = given.obs_names[(given.obs["condition"] == "ctrl").to_numpy()]
    assert set(predicted.obs["source_control"]) <= set(controls.obs_names) == set(everyone)
    counts = np.asarray(given[controls.obs_names, list(GENES)].X, np.float64)
    np.testing.assert_allclose(controls.X, np.log1p(1e4 * counts / counts.sum(1, keepdims=True)), rtol=1e-5)
    assert dict(got.uns["cellcore"]) == {"run": "abc", "seed": 1}


def test_several_draws_are_cells_of_their_own(folder: Path, data: PerturbH5ad, told: Mapping, tmp_path: Path) -> None:
    """A mean of cells is no cell, so draws stand one below the other."""
    items = asking(data, "A|T", cells=3).like(folder / "new.h5ad", told, MADE_FROM)
    values = np.arange(2 * 3 * len(GENES), dtype=np.float32).reshape(2, 3, len(GENES))
    items.save(tmp_path / "out.h5ad", {"expression": values}, {}, fresh=True)
    got = anndata.read_h5ad(tmp_path / "out.h5ad")
    assert got.obs["draw"].tolist() == [1, 1, 1, 2, 2, 2, 0, 0, 0]
    np.testing.assert_array_equal(got.X[:6], values.reshape(6, -1))
    assert got.obs["source_row"].tolist()[:3] == got.obs["source_row"].tolist()[3:6]


def test_cells_of_a_file_can_be_embedded(
    folder: Path, data: PerturbH5ad, told: Mapping, source: ScreenSource, tmp_path: Path
) -> None:
    """With expression among the needs items are the file's cells, prepared as in training; results are added to it."""
    items = data.like(folder / "train.h5ad", told, {"expression"})
    assert "expression" in items.known
    units = [*items.units()]
    rows = np.concatenate([unit.fields["index"][0] for unit in units])
    assert sorted(rows.tolist()) == list(range(source.table.cells))
    for unit in units:
        np.testing.assert_array_equal(unit.fields["expression"][0], source.expression(unit.fields["index"][0].numpy()))
    made = rows.astype(np.float32)[np.argsort(rows)][None, :, None]
    items.save(tmp_path / "out.h5ad", {"embedding": made}, {}, fresh=False)
    got = anndata.read_h5ad(tmp_path / "out.h5ad")
    assert got.obsm["X_cellcore"][:, 0].tolist() == list(range(source.table.cells))
    assert got.obs["condition"].tolist() == anndata.read_h5ad(folder / "train.h5ad").obs["condition"].tolist()


def test_files_that_differ_are_told(folder: Path, data: PerturbH5ad, told: Mapping, source: ScreenSource) -> None:
    """Missing genes stand at their training mean, others are left out, unknown levels and columns are said."""
    new = anndata.read_h5ad(folder / "new.h5ad")[:, 3:].copy()
    new.var_names = [*new.var_names[:-1], "other"]
    new.obs["kind"] = np.where((new.obs["kind"] == "T").to_numpy(), "T", "NK")
    path = saved(folder / "other.h5ad", new)
    items = asking(data, "A").like(path, told, MADE_FROM)
    assert [note.partition(" ")[0] for note in items.notes] == ["4", "1", "kind"]
    unit = next(unit for unit in items.units() if unit.units == ("A|NK",))
    assert unit.fields["covariate"].unique().tolist() == [-1]
    missing = [place for place, gene in enumerate(GENES) if gene not in new.var_names]
    np.testing.assert_allclose(unit.fields["control"][0, 0, missing], np.array(told["mean"])[missing], rtol=1e-6)
    bare = new.copy()
    bare.obs = bare.obs[[]]
    items = asking(data, "A", cells=3).like(saved(folder / "bare.h5ad", bare), told, MADE_FROM)
    assert any("names no conditions, so all its cells are taken as control cells" in note for note in items.notes)
    assert any("no column kind" in note for note in items.notes)
    assert [unit.units for unit in items.units()] == [("A",)]


def test_the_simulator_predicts_from_its_own_controls(tmp_path: Path) -> None:
    """A list is enough: control cells are simulated again."""
    data = simulated()
    source = data.open()
    names = source.names("perturbations")
    path = tmp_path / "list.csv"
    path.write_text(f"condition\n{names[2]}+{names[1]}\n")
    items = data.like(path, source.preparation(), MADE_FROM)
    assert isinstance(items, NewScreen)
    (unit,) = items.units()
    assert unit.units == (f"{names[1]}+{names[2]}",)
    assert unit.real_BN.shape == (1, 40)
    items.save(tmp_path / "out.h5ad", {"expression": np.zeros((1, 40, 16), np.float32)}, {}, fresh=True)
    assert anndata.read_h5ad(tmp_path / "out.h5ad").shape == (80, 16)


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (("A+X",), r"--data.asked.conditions: the perturbation 'X' of 'A\+X' is not among the 5"),
        (("A+B+C",), r"'A\+B\+C' joins 3 perturbations, .*trained on 2 together"),
        (("A+B", "B+A"), r"'B\+A' is asked for twice .also as 'A\+B'"),
        (("A|NK",), "no control cells of kind = NK; there are those of B; T"),
        (("A|T|x",), r"names 2 covariate\(s\) behind"),
        (("A+",), "names a perturbation without a name"),
        (("A|T", "A"), r"A\|T is asked for twice"),
        (("no.csv",), "'no.csv': there is no such file of conditions"),
    ],
)
def test_requests_that_cannot_be_met(
    asked: tuple[str, ...], says: str, folder: Path, data: PerturbH5ad, told: Mapping
) -> None:
    """One sentence for each, before anything is made."""
    with pytest.raises(UserError, match=says):
        asking(data, *asked).like(folder / "new.h5ad", told, MADE_FROM)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "lists no condition"),
        ("condition\n", "lists no condition below"),
        ("A,B\nC,D\n", "has 2 columns and none is called 'condition'"),
        ("condition,knd\nA,T\n", "no use for column 'knd'.*mean 'kind'"),
        ("condition,cells\nA,many\n", "list.csv, line 2: cells = 'many' is no whole number"),
        ("condition,cells\nA\n", "list.csv, line 2: 1 values under 2 columns"),
        ("condition\nA\nQ\n", "list.csv, line 3: the perturbation 'Q'"),
        (",condition\n0,A\n1,B\n", "column 1 has no name: save the table without its index"),
        ("condition,condition\nA,B\n", "two columns of one name"),
        ("condition,cells\nA,1000000000\n", "'A': 1,000,000,000 cells of it make 12,000,000,000 values"),
        ("A\n\n\nB+A\nA+Q\n", r"list.csv, line 5: the perturbation 'Q' of 'A\+Q'"),
        ('condition\n"A\n+B"\nA+\n', r"line 4: the condition 'A\+' names a perturbation without a name"),
        ("A\n" + "B" * 200_000, "list.csv, line 2: field larger than field limit.* give one condition a line"),
        ("A\n\0\0\n", "list.csv is no list of conditions but a binary file, .*character 3 is NUL.*UTF-8 with one"),
        ("condition\nB+A\nA+ctrl+B\n", r"line 3: 'A\+ctrl\+B' is asked for twice .also as 'B\+A'"),
    ],
)
def test_lists_that_cannot_be_read(text: str, says: str, data: PerturbH5ad, told: Mapping, tmp_path: Path) -> None:
    """One sentence for each."""
    path = tmp_path / "list.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=says):
        data.like(path, told, MADE_FROM)


@pytest.mark.parametrize("content", [bytes(range(256)), "A\nB\xe9\n".encode("latin-1"), "A\nB\n".encode("utf-16")])
def test_a_file_that_is_no_text(content: bytes, folder: Path, data: PerturbH5ad, told: Mapping, tmp_path: Path) -> None:
    """A binary file, or a text of another encoding, is called so, with what is wanted, wherever the list is named."""
    path = tmp_path / "list.csv"
    path.write_bytes(content)
    for asker, given in ((data, path), (asking(data, str(path)), folder / "new.h5ad")):
        with pytest.raises(UserError, match=r"list\.csv is no list of conditions but a binary file") as caught:
            asker.like(given, told, MADE_FROM)
        assert "codec" not in str(caught.value)


def test_files_that_cannot_be_used(folder: Path, data: PerturbH5ad, told: Mapping, tmp_path: Path) -> None:
    """No such file, no controls, no conditions, other genes, another scale, a list where cells are needed."""
    (tmp_path / "list.csv").write_text("A\n")
    new = anndata.read_h5ad(folder / "new.h5ad")
    treated = saved(tmp_path / "treated.h5ad", new[(new.obs["condition"] != "ctrl").to_numpy()].copy())
    rest = saved(tmp_path / "rest.h5ad", new[(new.obs["condition"] == "ctrl").to_numpy()].copy())
    logs = new.copy()
    logs.X = np.log1p(logs.X)
    alien = new.copy()
    alien.var_names = [f"x{i}" for i in range(len(GENES))]
    cases = [
        (folder / "nwe.h5ad", "no such file.*mean 'new.h5ad'"),
        (treated, "no cell is a control"),
        (rest, "holds control cells only"),
        (saved(tmp_path / "logs.h5ad", logs), "look like logarithms"),
        (saved(tmp_path / "alien.h5ad", alien), "has none of the 12 genes"),
    ]
    for path, says in cases:
        with pytest.raises(UserError, match=says):
            data.like(path, told, MADE_FROM)
    with pytest.raises(UserError, match="is a list of conditions, and this needs cells"):
        data.like(tmp_path / "list.csv", told, {"expression"})
    with pytest.raises(UserError, match="give one of them"):
        asking(data, "A").like(tmp_path / "list.csv", told, MADE_FROM)
    items = asking(data, "A").like(rest, told, MADE_FROM)
    with pytest.raises(UserError, match="cannot be written"):
        items.save(tmp_path / "none" / "out.h5ad", {"expression": np.zeros((1, 5, 12), np.float32)}, {}, fresh=True)
