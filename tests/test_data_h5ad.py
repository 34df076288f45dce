"""AnnData files: what is read, what is said of it, and what is refused."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from core import hdf5
from core.errors import UserError
from core.params import fields
from core.train.streams import Streams
from plugins.data import anndata_file
from plugins.data.cut import Cut
from plugins.data.h5ad import H5ad
from plugins.data.prepare import Prepare
from plugins.data.sets import CellSource, Sets

Change = Callable[[anndata.AnnData], Any]


@pytest.fixture(autouse=True)
def unprobed(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The look at a file from another process costs an interpreter, so only the tests about it take it."""
    if "probe" not in request.node.name:
        monkeypatch.setattr(anndata_file, "_probe", lambda path: None)


def cells(count: int = 60, genes: int = 6) -> anndata.AnnData:
    """A file's worth of cells in two sections."""
    rng = np.random.default_rng(1)
    data = anndata.AnnData(sp.csr_matrix(rng.poisson(2.0, (count, genes)).astype(np.float32)))
    data.var_names = [f"Gene{i}" for i in range(genes)]
    data.obs["section"] = pd.Categorical(np.where(np.arange(count) < count // 2, "left", "right"))
    data.obs["slide"] = np.where(np.arange(count) % 2, 2, 10)
    data.obs["cell_type"] = pd.Categorical(np.array(["T", None, "B"], object)[np.arange(count) % 3])
    data.obsm["spatial"] = rng.uniform(0, 500, (count, 2))
    data.obsm["X_umap"] = rng.normal(size=(count, 2))
    data.layers["raw"] = data.X.copy()
    data.uns["spatial_unit"] = "micrometre"
    data.uns["source"] = {"citation": "A paper 2020", "licence": "CC0"}
    return data


def write(path: Path, change: Change | None = None) -> Path:
    data = cells()
    changed = change(data) if change else None
    data = changed if isinstance(changed, anndata.AnnData) else data
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data.write_h5ad(path)
    return path


def reader(path: Path, **knobs: Any) -> H5ad:
    return H5ad(path=str(path), **({"sets": Sets(), "cut": Cut(), "prepare": Prepare()} | knobs))


def unit_fields(source: CellSource, name: str = "test") -> dict[str, np.ndarray]:
    """Fields of all cells of a split, one row a cell."""
    units = list(source.split(name, Streams(0)).units())
    return {key: np.concatenate([unit.fields[key][0].numpy() for unit in units]) for key in units[0].fields}


def put(key: str, value: Any) -> Change:
    """A change of one key of `obsm`."""
    return lambda data: data.obsm.__setitem__(key, value)


def poke(row: int, column: int, value: float) -> Change:
    """A change of one value of X."""

    def change(data: anndata.AnnData) -> None:
        dense = data.X.toarray()
        dense[row, column] = value
        data.X = dense

    return change


class TestReading:
    """The right numbers of the right keys."""

    def test_values(self, tmp_path: Path) -> None:
        """Expression, positions, types and rows are those of the file."""
        data = cells()
        source = reader(write(tmp_path / "a.h5ad"), prepare=Prepare(transform="none", clip=1e3)).open()
        got = unit_fields(source)
        rows = got["index"]
        assert np.array_equal(rows, np.arange(30, 60))
        np.testing.assert_allclose(source.restore("expression", got["expression"]), data.X.toarray()[rows], atol=1e-4)
        place = data.obsm["spatial"][rows]
        np.testing.assert_allclose(source.restore("position", got["position"]), place - place.mean(axis=0), atol=1e-3)
        names = ["" if code < 0 else source.names("cell_types")[code] for code in got["cell_type"]]
        assert names == data.obs["cell_type"].astype(object).fillna("").tolist()[30:]
        assert source.names("genes") == tuple(data.var_names)

    def test_facts(self, tmp_path: Path) -> None:
        """The card says what was read from where, also what was found by default, and what `uns` says of the origin."""
        facts = reader(write(tmp_path / "a.h5ad")).open().describe().facts
        assert facts["section_from"] == "obs['section'], found by its name"
        assert facts["cell_type_from"] == "obs['cell_type'], found by its name"
        assert facts["position_from"] == "obsm['spatial']"
        assert (facts["position_unit"], facts["source"]) == ("micrometre", "A paper 2020")
        assert facts["sections"]["left"] == {"cells": 30, "train": 27, "valid": 3, "test": 0}
        assert facts["untyped_cells"] == 20

    def test_nothing_by_default(self, tmp_path: Path) -> None:
        """Without columns of those names all is one section without types, and the card says so."""
        path = write(tmp_path / "a.h5ad", lambda data: data.obs.drop(columns=["section", "cell_type"], inplace=True))
        source = reader(path).open()
        card = source.describe()
        assert "all cells are one section (columns: slide)" in card.facts["section_from"]
        assert card.facts["cell_type_from"].startswith("none")
        assert card.sizes["cell_types"] == 0
        assert (unit_fields(source)["cell_type"] == -1).all()

    def test_named_keys(self, tmp_path: Path) -> None:
        """Keys that are named are read: numbered sections in order, other positions, another layer."""

        def change(data: anndata.AnnData) -> None:
            data.obsm["place"] = np.concatenate([data.obsm["spatial"], data.obsm["spatial"][:, :1]], axis=1)
            data.layers["raw"] = data.layers["raw"] * 2 + sp.csr_matrix(np.full(data.shape, 0.5))

        path = write(tmp_path / "a.h5ad", change)
        source = reader(path, position="place", section="slide", cell_type="section", layer="raw").open()
        card = source.describe()
        assert list(card.facts["sections"]) == ["2", "10"]
        assert card.sizes["dims"] == 3
        assert source.names("cell_types") == ("left", "right")
        assert card.facts["transform"].startswith("none")
        assert card.facts["section_from"] == "obs['slide']"

    @pytest.mark.parametrize("dtype", [np.int64, np.float64, np.bool_])
    @pytest.mark.parametrize("backed", [False, True])
    def test_types_of_numbers(self, tmp_path: Path, dtype: type, backed: bool) -> None:
        """Whole numbers, doubles and booleans become float32."""
        path = write(tmp_path / "a.h5ad", lambda data: setattr(data, "X", (data.X.toarray() > 1).astype(dtype)))
        got = unit_fields(reader(path, backed=backed).open())
        assert got["expression"].dtype == np.float32
        assert got["position"].dtype == np.float32

    @pytest.mark.parametrize("dense", [False, True])
    def test_backed(self, tmp_path: Path, dense: bool) -> None:
        """A matrix left on disk gives the same card and the same batches."""
        path = write(tmp_path / "a.h5ad", poke(0, 0, 3) if dense else None)
        one, two = (reader(path, backed=backed, sets=Sets(size=7)).open() for backed in (False, True))
        assert one.describe() == two.describe()
        a, b = (source.split("train", Streams(0)) for source in (one, two))
        for i in range(a.batches(0)):
            left, right = a.batch(0, i), b.batch(0, i)
            assert all(bool((left.fields[key] == right.fields[key]).all()) for key in left.fields)

    def test_closed(self, tmp_path: Path) -> None:
        """A file that was read into memory is let go: it can be written again."""
        path = write(tmp_path / "a.h5ad")
        reader(path).open()
        with h5py.File(path, "r+") as file:
            assert file["obs"]

    def test_fingerprint(self, tmp_path: Path) -> None:
        """The fingerprint follows the bytes, not the name; every byte and every key counts."""
        assert {field.name for field in fields(H5ad) if not field.identity} == {"path", "backed"}
        path = write(tmp_path / "a.h5ad")
        copy = tmp_path / "b.h5ad"
        copy.write_bytes(path.read_bytes())
        other = write(tmp_path / "c.h5ad", lambda data: data.uns.__setitem__("note", "new"))
        prints = [
            reader(path).open(),
            reader(copy).open(),
            reader(other).open(),
            reader(path, section="slide").open(),
            reader(path, layer="raw").open(),
        ]
        first, same, *others = (source.describe().fingerprint for source in prints)
        assert first == same
        assert len({first, *others}) == 4


class TestRefusals:
    """One sentence that names file, field and fix."""

    def refuse(self, path: Path, says: str, **knobs: Any) -> None:
        with pytest.raises(UserError, match=says) as caught:
            reader(path, **knobs).open()
        assert len(str(caught.value).splitlines()) == 1

    def test_no_file(self, tmp_path: Path) -> None:
        """A missing file is answered with the files of its folder, the nearest by name."""
        write(tmp_path / "breast.h5ad")
        self.refuse(tmp_path / "brest.h5ad", r"no such file; .* breast.h5ad. Did you mean 'breast.h5ad'\?")
        self.refuse(tmp_path / "nowhere" / "a.h5ad", "there is no folder '.*nowhere'")

    def test_folder(self, tmp_path: Path) -> None:
        """A folder is answered with the files in it."""
        write(tmp_path / "a.h5ad")
        self.refuse(tmp_path, r"is a folder: name one .h5ad file \(in this folder: a.h5ad\)")

    @pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
    def test_truncated(self, tmp_path: Path, share: float) -> None:
        """A file cut short is refused as such."""
        path = write(tmp_path / "a.h5ad")
        whole = path.read_bytes()
        path.write_bytes(whole[: int(share * len(whole))])
        self.refuse(path, "a.h5ad cannot be read as an h5ad file.*copy or download it again")

    def test_damaged(self, tmp_path: Path) -> None:
        """Bytes that are wrong inside a compressed matrix are refused, whether it is read at once or by row."""
        path = tmp_path / "a.h5ad"
        data = cells()
        data.X = data.X.toarray()
        data.write_h5ad(path, compression="gzip")
        with h5py.File(path) as file:
            start = file["X"].id.get_chunk_info(0).byte_offset
        with path.open("r+b") as stream:
            stream.seek(start)
            stream.write(b"\xff" * 40)
        self.refuse(path, "reading X failed")
        self.refuse(path, "reading X failed", backed=True)

    def test_probe_of_a_file_that_sends_the_library_in_circles(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A look that does not end is ended, and the file called damaged; a sound file passes the same look."""
        path = write(tmp_path / "a.h5ad")
        assert reader(path).open().describe().facts["cells"] == 60
        monkeypatch.setattr(hdf5, "PROBE", "while True: pass")
        monkeypatch.setattr(hdf5, "PROBE_SECONDS", 0.2)
        self.refuse(path, "looking through it did not end within 0.2 s: it is damaged")

    def test_probe_of_a_file_that_crashes_the_library(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A crash takes down the look alone."""
        path = write(tmp_path / "a.h5ad")
        monkeypatch.setattr(hdf5, "PROBE", "import os; os.kill(os.getpid(), 11)")
        self.refuse(path, r"the HDF5 library crashed on it \(signal 11\)")

    @pytest.mark.slow
    @pytest.mark.parametrize("start", [800, 3000, 9000])
    def test_probe_of_damage_anywhere(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start: int) -> None:
        """Three thousand ruined bytes in the structure of a file end in a sentence, never in a hang."""
        path = write(tmp_path / "a.h5ad")
        with path.open("r+b") as stream:
            stream.seek(start)
            stream.write(b"\xff" * 3000)
        monkeypatch.setattr(hdf5, "PROBE_SECONDS", 5.0)
        self.refuse(path, "cannot be read as an h5ad file")

    def test_no_h5ad(self, tmp_path: Path) -> None:
        """A text file and an HDF5 file of another kind are refused."""
        text = tmp_path / "a.h5ad"
        text.write_text("gene,cell\n")
        self.refuse(text, "cannot be read as an h5ad file")
        with h5py.File(tmp_path / "b.h5ad", "w") as file:
            file["matrix"] = np.zeros(3)
        self.refuse(tmp_path / "b.h5ad", "is an HDF5 file without obs and var, so it is no h5ad file")

    @pytest.mark.parametrize(
        ("change", "knobs", "says"),
        [
            (
                None,
                {"position": "spatal"},
                r"a.h5ad: obsm has no key 'spatal'.* X_umap, spatial\). Did you mean 'spatial'",
            ),
            (lambda d: d.obsm.pop("spatial"), {}, r"obsm has no key 'spatial'.* \(there is: X_umap\)"),
            (lambda d: d.obsm.clear(), {}, r"obsm has no key 'spatial'.* \(there is: none\)"),
            (put("spatial", np.zeros((60, 1))), {}, r"is of shape \(60, 1\), and positions are 60 x 2 or 60 x 3"),
            (put("spatial", np.zeros((60, 4))), {}, r"is of shape \(60, 4\)"),
            (put("spatial", np.full((60, 2), "a")), {}, "not numbers"),
            (put("spatial", np.full((60, 2), 7.0)), {}, "all 30 cells of section 'left' at one place"),
            (
                put("spatial", np.where(np.arange(120).reshape(60, 2) < 4, np.nan, 1.0)),
                {},
                r"obsm\['spatial'\] is NaN or infinite for 2 of 60 cells, the first in row 0",
            ),
            (poke(3, 2, np.nan), {}, "a.h5ad: X holds 1 NaN or infinite.*'Gene2'.* `layer`"),
            (poke(3, 2, np.inf), {"backed": True}, "X holds 1 NaN or infinite.*'Gene2'"),
            (lambda d: setattr(d, "X", d.X * 0), {}, "a.h5ad: X holds nothing but zeros.*`layer`"),
            (lambda d: setattr(d, "X", d.X * 0), {"backed": True}, "X holds nothing but zeros"),
            (put("spatial", np.arange(120.0).reshape(60, 2) * 1e306), {}, "which no number can scale"),
            (poke(3, 2, -1), {"prepare": Prepare(transform="counts")}, r"negative values \(down to -1\).*'none'"),
            (
                lambda d: setattr(d, "var_names", ["A", "B", "A", "C", "D", "E"]),
                {},
                "names 1 gene.*more than once.*'A'",
            ),
            (lambda d: d[:0].copy(), {}, r"X is empty \(0 cells x 6 genes\)"),
            (lambda d: d[:, :0].copy(), {}, r"X is empty \(60 cells x 0 genes\)"),
            (None, {"section": "slice"}, "obs has no column 'slice'; set `section` to one of: .* Did you mean 'slide'"),
            (None, {"cell_type": "celltype"}, "obs has no column 'celltype'.* Did you mean 'cell_type'"),
            (
                lambda d: d.obs.__setitem__("section", [None, *"a" * 59]),
                {},
                r"obs\['section'\] names no section for 1 of 60",
            ),
            (lambda d: d.obs.__setitem__("section", ["b", *"a" * 59]), {}, "section 'b' has a single cell"),
            (None, {"layer": "rows"}, r"has no layers/rows: set `layer` to one of its layers \(raw\)"),
            (lambda d: setattr(d, "X", d.X.tocsc()), {"backed": True}, r"stored by column \(CSC\).* backed = false"),
            (None, {"cut": Cut(section="rigth")}, "is no section of a.h5ad: .*left, right. Did you mean 'right'"),
        ],
    )
    def test_content(self, tmp_path: Path, change: Change | None, knobs: dict, says: str) -> None:
        """Content that breaks the contract is refused; no other key is taken instead."""
        path = write(tmp_path / "a.h5ad", change)
        self.refuse(path, says, **knobs)

    def test_shapes(self, tmp_path: Path) -> None:
        """A matrix that does not fit obs and var is refused."""
        path = write(tmp_path / "a.h5ad")
        with h5py.File(path, "r+") as file:
            file["X"].attrs["shape"] = [59, 6]
        self.refuse(path, "X is 59 x 6 and obs x var is 60 x 6")

    def test_no_matrix(self, tmp_path: Path) -> None:
        """A file without X is read by a layer, and says so where none is named."""
        path = write(tmp_path / "a.h5ad")
        with h5py.File(path, "r+") as file:
            del file["X"]
        self.refuse(path, r"has no X: set `layer` to one of its layers \(raw\)")
        assert reader(path, layer="raw").open().describe().facts["expression_from"] == "layers/raw"
