"""`core sample` and `core embed` for a run on a prepared folder: raw cells go through both stages' arithmetic again."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pytest

from core.cli import main
from core.errors import UserError
from core.train.streams import Streams
from plugins.data import anndata_file
from plugins.data.processed import Processed
from plugins.data.sets import Sets
from prepared import cells, merge, save, stage
from small import SMALL

NETWORK = [word for word in SMALL if word.startswith(("--width", "--depth", "--attention", "--sampling", "--train"))]


@pytest.fixture(autouse=True)
def unprobed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(anndata_file, "_probe", lambda path: None)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on two sections of a prepared file, whose folder is gone when it is used."""
    home = tmp_path_factory.mktemp("whole")
    raw = save(home / "atlas.h5ad", cells())
    assert main(["data", "prepare", str(raw), "-o", str(home / "processed")]) == 0
    words = ["--data", str(home / "processed"), "--data.sets.size=16", "--train.steps=3", "-q", "-o", str(home / "run")]
    assert main(["run", *NETWORK, *words]) == 0
    shutil.rmtree(home / "processed")
    return home / "run"


def new_section(path: Path, **kept: Any) -> ad.AnnData:
    """Another tissue: other cells, genes in another order among others, places far from 0."""
    data = cells(count=40, genes=8, sections=1, seed=9)[:, ::-1].copy()
    data.var_names = [*data.var_names[:-1], "Stranger"]
    data.obs["section"] = "s7"
    data.obsm["spatial"] = data.obsm["spatial"] + 10_000
    save(path, data)
    return data


def test_the_whole_way(run: Path, core: Callable[..., Any], tmp_path: Path) -> None:
    """Raw cells of a new section are placed in input units about their own centre, embedded, and what they express is
    made on the scale of the folder; how they were scaled and which gene is missing is said. The folder is gone."""
    raw = new_section(tmp_path / "new.h5ad")
    said = core("sample", str(run), str(tmp_path / "new.h5ad"), "--mode", "expr_to_pos", "-o", str(tmp_path / "p.h5ad"))
    assert said.code == 0, said.err
    assert "New sections, scaled by their own cells as stage 1 does: new:s7." in said.err
    assert "1 of the 8 genes of the run are not in new.h5ad" in said.err
    placed = ad.read_h5ad(tmp_path / "p.h5ad")
    np.testing.assert_allclose(placed.obsm["spatial"].mean(0), raw.obsm["spatial"].mean(0), rtol=1e-6)
    assert 10 < placed.obsm["spatial"].std() < 1000
    assert core("embed", str(run), str(tmp_path / "new.h5ad"), "-o", str(tmp_path / "z.h5ad")).code == 0
    z = ad.read_h5ad(tmp_path / "z.h5ad").obsm["X_cellcore"]
    assert z.shape == (40, 16)
    assert np.isfinite(z).all()
    words = ("--mode", "pos_to_expr", "-o", str(tmp_path / "x.h5ad"), "--draws", "0")
    assert core("sample", str(run), str(tmp_path / "new.h5ad"), *words).code == 0
    made = ad.read_h5ad(tmp_path / "x.h5ad")
    assert made.shape == (40, 8)
    assert sorted(made.var_names) == [f"Gene{i}" for i in range(8)]


@pytest.mark.parametrize("flags", [{}, {"scale": False}, {"normalize": False}, {"store": "sparse"}], ids=str)
def test_known_cells_come_as_the_loader_gives_them(tmp_path: Path, flags: dict[str, Any]) -> None:
    """The raw cells of the folder's own sections, in any order of genes and rows, are the loader's to the last bits."""
    data = cells()
    stage(tmp_path / "mid", save(tmp_path / "atlas.h5ad", data), **flags)
    knobs = Processed(path=str(merge(tmp_path / "out", tmp_path / "mid").path), clip=2.0, sets=Sets())
    source = knobs.open()
    shuffled = data[np.random.default_rng(3).permutation(data.n_obs)].copy()[:, ::-1]
    (tmp_path / "again").mkdir()
    items = knobs.like(
        save(tmp_path / "again" / "atlas.h5ad", shuffled.copy()), source.preparation(), ("expression", "position")
    )
    assert any("statistics that the run keeps" in note for note in items.notes) == flags.get("scale", True)
    seen = {unit.units[0]: unit for unit in items.units()}
    whole = [unit for name in ("train", "valid", "test") for unit in source.split(name, Streams(0)).units()]
    for name, unit in seen.items():
        rows = [np.concatenate([u.fields[f][0].numpy() for u in whole if u.units[0] == f"atlas:{name}"])
                for f in ("position", "expression")]  # fmt: skip
        mine = [unit.fields[f][0].numpy() for f in ("position", "expression")]
        there, here = (np.lexsort(block[0].round(4).T) for block in (rows, mine))
        np.testing.assert_allclose(mine[0][here], rows[0][there], atol=1e-5)
        np.testing.assert_allclose(mine[1][here], rows[1][there], atol=1e-5)


def test_a_new_section_by_hand(tmp_path: Path) -> None:
    """A section that the folder does not hold: total over the panel, logarithm, its own mean and deviation, then the
    deviations of the training cells."""
    stage(tmp_path / "mid", save(tmp_path / "atlas.h5ad", cells()), target_sum=100.0)
    knobs = Processed(path=str(merge(tmp_path / "out", tmp_path / "mid").path), sets=Sets())
    told = knobs.open().preparation()
    raw = cells(count=30, sections=1, seed=5)
    (unit,) = knobs.like(save(tmp_path / "new.h5ad", raw), told, ("expression",)).units()
    x_nG = raw.X.toarray().astype(np.float64)[:, [list(raw.var_names).index(gene) for gene in told["genes"]]]
    x_nG = np.log1p(100.0 * x_nG / x_nG.sum(1, keepdims=True))
    x_nG = (x_nG - x_nG.mean(0)) / x_nG.std(0)
    wanted = (x_nG - np.array(told["mean"])) / np.array(told["std"])
    np.testing.assert_allclose(unit.fields["expression"][0].numpy(), wanted, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "needs", "says"),
    [
        (lambda d: d.X.data.__setitem__(0, -1.0), ("expression",), "holds negative values"),
        (lambda d: d.X.data.__setitem__(0, np.nan), ("expression",), "NaN or infinite"),
        (lambda d: setattr(d, "var_names", [f"x{i}" for i in range(8)]), ("expression",), "none of the 8 genes"),
        (lambda d: d.obsm.pop("spatial"), ("position",), "obsm has no key 'spatial'"),
    ],
)
def test_what_cannot_be_used(tmp_path: Path, change: Callable, needs: tuple[str, ...], says: str) -> None:
    """One sentence, before anything is made."""
    stage(tmp_path / "mid", save(tmp_path / "atlas.h5ad", cells()))
    knobs = Processed(path=str(merge(tmp_path / "out", tmp_path / "mid").path), sets=Sets())
    data = cells(seed=2)
    change(data)
    with pytest.raises(UserError, match=says):
        knobs.like(save(tmp_path / "new.h5ad", data), knobs.open().preparation(), needs)


def test_stacked_and_flattened_axes(tmp_path: Path) -> None:
    """A 2-D section fits a stack, about its own centre; of three columns the first two fit a folder of --dims 2."""
    flat, deep = cells(), cells()
    deep.obsm["spatial"] = np.column_stack([deep.obsm["spatial"], np.arange(90.0)])
    for name, data, flags in (("stack", flat, {"z_spacing": 50.0}), ("cut", deep, {"dims": "2"})):
        stage(tmp_path / f"{name}-mid", save(tmp_path / f"{name}.h5ad", data), **flags)
        knobs = Processed(path=str(merge(tmp_path / f"{name}-out", tmp_path / f"{name}-mid").path), sets=Sets())
        told = knobs.open().preparation()
        items = knobs.like(tmp_path / f"{name}.h5ad", told, ("position",))
        place = np.concatenate([unit.fields["position"][0].numpy() for unit in items.units()])
        assert place.shape == (90, 3 if name == "stack" else 2)
        wanted = flat.obsm["spatial"].reshape(3, 30, 2)
        wanted = (wanted - wanted.mean(1, keepdims=True)).reshape(90, 2) / told["scale"]
        np.testing.assert_allclose(place[:, :2], wanted, atol=1e-5)
        assert not place[:, 2:].any()
