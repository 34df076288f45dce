"""Preprocessing: what the two stages write, what they refuse, and what they never do silently."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.sparse as sp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from core.cli import main
from core.cli.flags import as_flags
from core.errors import UserError
from core.listed import read_listed
from plugins.data import anndata_file, shards
from plugins.data.division import SPLITS
from plugins.data.shards import Cells, Reader, Writer
from plugins.data.stage1 import Stage1
from plugins.data.transform import Fitted, Transform
from prepared import cells, merge, save, stage


@pytest.fixture(autouse=True)
def unprobed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The look at a file from another process costs an interpreter."""
    monkeypatch.setattr(anndata_file, "_probe", lambda path: None)


def rows(folder: Path) -> pd.DataFrame:
    """All cells of a folder as one data frame, by name."""
    tables = [pq.read_table(path) for path in sorted(folder.rglob("*.parquet"))]
    return pa.concat_tables(tables).to_pandas().set_index("cell").sort_index()


def codes(folder: Path) -> dict[str, str]:
    """Name of the type of each cell of a stage-2 folder."""
    types = [*json.loads((folder / "metadata.json").read_text())["cell_types"], "unknown"]
    return {cell: types[code] for cell, code in rows(folder).cell_type.items()}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return save(tmp_path / "a.h5ad", cells())


class TestValues:
    """The numbers in the files."""

    @pytest.mark.parametrize("store", ["dense", "sparse"])
    @pytest.mark.parametrize("steps", [(), ("normalize",), ("scale",), ("normalize", "log1p", "scale")])
    def test_steps(self, tmp_path: Path, file: Path, store: str, steps: tuple[str, ...]) -> None:
        """Each step is what its formula says, section by section, can be left out, and can be undone."""
        flags = {name: name in steps for name in ("normalize", "log1p", "scale")}
        listed = stage(tmp_path / "mid", file, store=store, **flags)
        data = cells()
        for section in listed.json("metadata.json")["sections"]:
            table = pq.read_table(tmp_path / "mid" / section["file"]).to_pandas()
            counts = data[table.cell].X.toarray().astype(np.float64)
            want = counts.copy()
            if "normalize" in steps:
                want *= 1e4 / want.sum(axis=1, keepdims=True)
            if "log1p" in steps:
                want = np.log1p(want)
            if "scale" in steps:
                want = (want - (want.mean(axis=0) if store == "dense" else 0)) / want.std(axis=0)
            if store == "dense":
                got = np.stack(table.expression)
            else:
                got = np.zeros_like(want)
                for i, (index, values) in enumerate(zip(table.indices, table["values"], strict=True)):
                    got[i, index] = values
            assert got.dtype == (np.float32 if store == "dense" else np.float64)
            np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
            fitted = Fitted.from_json(listed.json(section["info"])["fitted"])
            np.testing.assert_allclose(fitted.invert(got, table.total.to_numpy()), counts, atol=1e-3)

    @given(hnp.arrays(np.float32, (7, 4), elements=st.integers(0, 9).map(float)), st.booleans(), st.booleans(),
           st.booleans(), st.booleans())  # fmt: skip
    @settings(max_examples=60, deadline=None)
    def test_inverse(self, counts: np.ndarray, normalize: bool, log1p: bool, scale: bool, sparse: bool) -> None:
        """Whatever steps are taken, statistics that went through JSON give the counts back, constant genes too."""
        knobs = Transform(normalize=normalize, log1p=log1p, scale=scale)
        fitted, values, total_n = Fitted.fit(sp.csr_matrix(counts) if sparse else counts, knobs)
        again = Fitted.from_json(json.loads(json.dumps(fitted.to_json())))
        np.testing.assert_allclose(again.invert(values, total_n), counts, atol=1e-3)
        stored = values.toarray() if sparse else values
        assert np.isfinite(stored).all()

    @given(hnp.arrays(np.float32, (5, 3), elements=st.floats(width=32, allow_nan=False)),
           hnp.arrays(np.float64, (5, 2), elements=st.floats(allow_nan=False)), st.booleans())  # fmt: skip
    @settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    def test_parquet_round_trip(self, tmp_path: Path, values: np.ndarray, place: np.ndarray, sparse: bool) -> None:
        """What is written is read back to the last bit, in fixed-size lists of float32."""
        written: object = sp.csr_matrix(values) if sparse else values
        five = np.arange(5)
        made = Cells(written, place, five - 1, five * 0.5, np.array([f"c{i}" for i in five], object))
        path = tmp_path / "x.parquet"
        with Writer(path, 3, 2, sparse=sparse, key="k") as writer:
            writer.write("s", made)
        reader = Reader(path, 3, 2, sparse=sparse, key="k")
        back = reader.group(0)
        reader.close()
        got = back.values.toarray() if sparse else back.values
        same = values + np.float32(0) if sparse else values  # a sparse matrix does not store -0
        assert got.tobytes() == (np.where(values == 0, np.float32(0), same) if sparse else values).tobytes()
        assert back.position_nP.tobytes() == place.tobytes()
        assert (back.type_n.tolist(), back.name_n.tolist()) == (made.type_n.tolist(), made.name_n.tolist())
        if not sparse:
            kind = pq.read_schema(path).field("expression").type
            assert (kind.list_size, kind.value_type) == (3, pa.float32())

    def test_everything_is_json_or_parquet(self, tmp_path: Path, file: Path) -> None:
        """No file of either stage is anything but JSON, Parquet or the card."""
        for listed in (stage(tmp_path / "mid", file), merge(tmp_path / "out", tmp_path / "mid")):
            assert {Path(name).suffix for name in listed.files} <= {".json", ".parquet", ".md"}

    def test_gigantic_coordinates(self, tmp_path: Path) -> None:
        """Positions far from the origin keep their differences to the last bit of the input."""
        data = cells()
        data.obsm["spatial"] = data.obsm["spatial"] + 1e9
        stage(tmp_path / "mid", save(tmp_path / "far.h5ad", data))
        table = rows(tmp_path / "mid")
        assert np.array_equal(np.stack(table.position), data[table.index].obsm["spatial"])

    def test_order_of_rows_is_forgotten(self, tmp_path: Path) -> None:
        """A file whose rows are shuffled gives the same cells the same numbers and the same split."""
        data = cells()
        data.obsm["spatial"][:30] = np.round(data.obsm["spatial"][:30], -2)  # many coincident cells
        order = np.random.default_rng(5).permutation(data.n_obs)
        for name, own in (("a", data), ("b", data[order].copy())):
            (tmp_path / name).mkdir()
            stage(tmp_path / name / "mid", save(tmp_path / name / "x.h5ad", own))
            for by in ("cell", "block", "section"):
                merge(tmp_path / name / by, tmp_path / name / "mid", by=by, valid=0.3, test=0.3, blocks=4)
        for by in ("cell", "block", "section"):
            for split in ("train", "validation", "test"):
                one, two = (set(pq.read_table(next((tmp_path / n / by).rglob(f"{split}-*"))).column("cell").to_pylist())
                            for n in ("a", "b"))  # fmt: skip
                assert one == two


class TestMerging:
    """Genes and labels go by name."""

    def test_labels_by_name(self, tmp_path: Path) -> None:
        """Equal codes of different names stay apart, equal names of different codes come together."""
        for name, kinds in (("A", ["x", "y"]), ("B", ["a", "y"])):
            data = cells(sections=2)
            data.obs_names = [f"{name}{i}" for i in range(data.n_obs)]
            data.obs["cell_type"] = [kinds[i % 2] for i in range(data.n_obs)]
            stage(tmp_path / name, save(tmp_path / f"{name}.h5ad", data))
        merge(tmp_path / "out", tmp_path / "A", tmp_path / "B")
        found = codes(tmp_path / "out")
        assert {found[f"A{i}"] for i in range(0, 90, 2)} == {"x"}
        assert {found[f"B{i}"] for i in range(0, 90, 2)} == {"a"}
        assert {found[f"{name}{i}"] for name in "AB" for i in range(1, 90, 2)} == {"y"}

    @pytest.mark.parametrize("store", ["dense", "sparse"])
    def test_genes_by_name(self, tmp_path: Path, store: str) -> None:
        """Genes in another order are put in order; the same cells then have the same numbers."""
        data = cells(sections=2)
        for name, own in (("A", data), ("B", data[:, ::-1].copy())):
            own.obs_names = [f"{name}{i}" for i in range(own.n_obs)]
            panel = tmp_path / f"{name}.txt"
            panel.write_text("\n".join(own.var_names))
            stage(tmp_path / name, save(tmp_path / f"{name}.h5ad", own), store=store, genes=str(panel))
        merge(tmp_path / "out", tmp_path / "A", tmp_path / "B")
        table = rows(tmp_path / "out")
        column = "expression" if store == "dense" else "values"
        for i in range(90):
            assert sorted(table[column][f"A{i}"]) == pytest.approx(sorted(table[column][f"B{i}"]), abs=1e-6)
        if store == "dense":
            assert np.array_equal(table.expression["A3"], table.expression["B3"])

    def test_differing_genes(self, tmp_path: Path) -> None:
        """Sets of genes that differ are refused, unless one says what is wanted; absent genes are then 0."""
        for name, drop in (("A", 0), ("B", 1)):
            data = cells(sections=2)
            data.obs_names = [f"{name}{i}" for i in range(data.n_obs)]
            stage(tmp_path / name, save(tmp_path / f"{name}.h5ad", data[:, [g for g in range(8) if g != drop]].copy()))
        both = tmp_path / "A", tmp_path / "B"
        with pytest.raises(UserError, match=r"1 and 1 in one only, such as 'Gene1'.*--panel intersection"):
            merge(tmp_path / "out", *both)
        inner = merge(tmp_path / "inner", *both, panel="intersection").json("metadata.json")
        assert inner["genes"] == [f"Gene{g}" for g in range(2, 8)]
        outer = merge(tmp_path / "outer", *both, panel="union").json("metadata.json")
        assert outer["genes"] == [f"Gene{g}" for g in range(8)]
        assert all(row[0] == 0 for cell, row in rows(tmp_path / "outer").expression.items() if cell.startswith("A"))
        assert all(section["absent"] == 1 for section in outer["sections"])

    def test_z_goes_on(self, tmp_path: Path) -> None:
        """Sections of the second data set are stacked on those of the first, none shares a z."""
        for name in "AB":
            stage(tmp_path / name, save(tmp_path / f"{name}.h5ad", cells(sections=2)), z_spacing=7.0)
        merge(tmp_path / "out", tmp_path / "A", tmp_path / "B")
        table = rows(tmp_path / "out")
        z = {section: {place[2] for place in part.position} for section, part in table.groupby("section")}
        assert z == {"A/A:s0": {0.0}, "A/A:s1": {7.0}, "B/B:s0": {14.0}, "B/B:s1": {21.0}}

    @pytest.mark.parametrize(
        ("flags", "says"),
        [
            ({"z_spacing": 5.0}, "only one of A and B has --z-spacing"),
            ({"scale": False}, "data sets differ in steps"),
            ({"store": "sparse"}, "data sets differ in sparse"),
            ({"title": "A"}, "two data sets are called 'A'"),
        ],
    )
    def test_unlike_data_sets(self, tmp_path: Path, file: Path, flags: dict, says: str) -> None:
        """Data sets prepared in different ways are not merged."""
        stage(tmp_path / "A", file)
        stage(tmp_path / "B", file, **flags)
        with pytest.raises(UserError, match=says):
            merge(tmp_path / "out", tmp_path / "A", tmp_path / "B")

    def test_2d_and_3d(self, tmp_path: Path, file: Path) -> None:
        """Flat and solid positions are never mixed silently, in one data set or in two."""
        solid = cells()
        solid.obsm["spatial"] = np.random.default_rng(1).normal(size=(90, 3))
        other = save(tmp_path / "solid.h5ad", solid)
        with pytest.raises(UserError, match=r"a.h5ad are 2-D and those of solid.h5ad are 3-D.*--dims 2"):
            stage(tmp_path / "mid", file, other)
        with pytest.raises(UserError, match="--z-spacing stacks 2-D sections"):
            stage(tmp_path / "mid", other, z_spacing=1.0)
        with pytest.raises(UserError, match=r"--dims 3: positions of a.h5ad have two columns"):
            stage(tmp_path / "mid", file, dims="3")
        assert stage(tmp_path / "mid", file, other, dims="2").json("metadata.json")["dims"] == 2
        stage(tmp_path / "A", file)
        stage(tmp_path / "B", other)
        with pytest.raises(UserError, match="data sets differ in dims: A has 2-D, B 3-D"):
            merge(tmp_path / "out", tmp_path / "A", tmp_path / "B")


class TestResume:
    """A folder is what content and parameters say, or it is not there."""

    def test_the_same_again(self, tmp_path: Path, file: Path) -> None:
        """The same command does nothing the second time."""
        for make in (lambda told: stage(tmp_path / "mid", file, told=told),
                     lambda told: merge(tmp_path / "out", tmp_path / "mid", told=told)):  # fmt: skip
            first = make([])
            told: list[str] = []
            assert make(told) == first
            assert any("up to date" in line for line in told)

    @pytest.mark.parametrize(
        "flags",
        [{"scale": False}, {"log1p": False}, {"normalize": False}, {"target_sum": 1e3}, {"store": "sparse"},
         {"dims": "3"}, {"position": "other"}, {"cell_type": "kind"}, {"layer": "raw"}, {"z_spacing": 3.0}],
        ids=str,
    )  # fmt: skip
    def test_changed_flags(self, tmp_path: Path, flags: dict) -> None:
        """Another parameter is another key, and what is written is what the parameter says, not what lay there."""
        data = cells()
        data.obsm["spatial"] = np.random.default_rng(1).normal(size=(90, 3))
        data.obsm["other"] = data.obsm["spatial"] * 2
        data.obs["kind"] = data.obs["cell_type"]
        data.layers["raw"] = data.X * 3 + sp.eye(90, 8, format="csr")
        file = save(tmp_path / "a.h5ad", data)
        base = {"dims": "2"}
        first = stage(tmp_path / "mid", file, **base)
        second = stage(tmp_path / "mid", file, **(base | flags))
        fresh = stage(tmp_path / "fresh", file, title="mid", **(base | flags))
        assert first.key != second.key == fresh.key
        assert second.files == fresh.files

    def test_changed_genes_and_content(self, tmp_path: Path, file: Path) -> None:
        """Another panel or another file is another key; no column of the old panel survives."""
        panel = tmp_path / "genes.txt"
        keys = set()
        for text in ("Gene0\nGene1", "Gene1,Gene0", "Gene2\tGene3\tGene4"):
            panel.write_text(text)
            listed = stage(tmp_path / "mid", file, genes=str(panel))
            keys.add(listed.key)
            assert {len(row) for row in rows(tmp_path / "mid").expression} == {
                len(listed.json("metadata.json")["genes"])
            }
        save(file, cells(seed=1))
        keys.add(stage(tmp_path / "mid", file, genes=str(panel)).key)
        assert len(keys) == 4

    def test_sections_are_reused(self, tmp_path: Path, file: Path) -> None:
        """With a file more, the sections of the others are not done again."""
        stage(tmp_path / "mid", file)
        told: list[str] = []
        stage(tmp_path / "mid", file, save(tmp_path / "b.h5ad", cells(seed=2)), told=told)
        assert sum("reused" in line for line in told) == 3
        assert sum("written" in line for line in told) == 3

    def test_reused_only_if_whole(self, tmp_path: Path, file: Path) -> None:
        """A section that was changed on disk is written anew."""
        stage(tmp_path / "mid", file)
        path = sorted((tmp_path / "mid" / "sections").glob("*.parquet"))[0]
        data = bytearray(path.read_bytes())
        data[50] ^= 1
        path.write_bytes(data)
        told: list[str] = []
        stage(tmp_path / "mid", file, save(tmp_path / "b.h5ad", cells(seed=2)), told=told)
        assert sum("reused" in line for line in told) == 2

    @pytest.mark.parametrize("after", [0, 1, 2])
    def test_interrupted(self, tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch, after: int) -> None:
        """An interrupted command leaves no folder, and the next one gives what an undisturbed one gives."""
        fresh = stage(tmp_path / "fresh" / "mid", file)
        write, calls = Writer.write, []

        def fail(self: Writer, section: str, made: Cells) -> None:
            calls.append(section)
            if len(calls) > after:
                raise KeyboardInterrupt
            write(self, section, made)

        for made, make in (
            ("mid", lambda: stage(tmp_path / "mid", file)),
            ("out", lambda: merge(tmp_path / "out", tmp_path / "mid", by="cell", valid=0.2, test=0.2)),
        ):
            calls.clear()
            with monkeypatch.context() as patch:
                patch.setattr(Writer, "write", fail)
                with pytest.raises(KeyboardInterrupt):
                    make()
            assert not (tmp_path / made).exists()
            make()
            assert not list(tmp_path.glob(f".{made}*"))
        assert read_listed(tmp_path / "mid", "core data stage1").files == fresh.files
        assert len(rows(tmp_path / "out")) == 90

    def test_stale_shards_are_gone(self, tmp_path: Path, file: Path) -> None:
        """After a change of the number of shards, none of the old ones is left."""
        stage(tmp_path / "mid", file)
        for shard, count in ((100, 1), (10, 3), (100, 1)):
            listed = merge(tmp_path / "out", tmp_path / "mid", shard=shard, by="block", blocks=4, valid=0.3, test=0.3)
            train = sorted(path.name for path in (tmp_path / "out" / "data").glob("train-*"))
            assert len(train) >= count
            assert train == sorted(Path(n).name for n in listed.files if "train-" in n)
            assert all(name.endswith(f"-of-{len(train):05d}.parquet") for name in train)

    def test_one_at_a_time(self, tmp_path: Path, file: Path) -> None:
        """Two processes do not build one folder at once."""
        from core.listed import Draft

        with Draft(tmp_path / "mid", "x", "k" * 64), pytest.raises(UserError, match="another process is making"):
            Draft(tmp_path / "mid", "x", "k" * 64).__enter__()

    def test_somebody_elses_folder(self, tmp_path: Path, file: Path) -> None:
        """A folder that no stage made is not written to."""
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "thesis.tex").write_text("years")
        with pytest.raises(UserError, match="exists and was not made by"):
            stage(tmp_path / "mine", file)
        assert (tmp_path / "mine" / "thesis.tex").read_text() == "years"


def test_shards_are_cut_evenly(tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Row groups hold one section each, and the plan in the metadata is what the files hold."""
    monkeypatch.setattr(shards, "GROUP", 16)
    stage(tmp_path / "mid", file)
    said = merge(tmp_path / "out", tmp_path / "mid", by="cell", shard=25, valid=0.2, test=0.2).json("metadata.json")
    assert list(said["splits"]) == list(SPLITS)
    for name, groups in said["shards"].items():
        found = pq.ParquetFile(tmp_path / "out" / name)
        assert found.metadata.num_rows <= 25
        for number, (section, count) in enumerate(groups):
            table = found.read_row_group(number)
            assert (set(table.column("section").to_pylist()), len(table)) == (
                {said["sections"][section]["name"]},
                count,
            )
        found.close()
    shutil.rmtree(tmp_path / "mid")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--section=slide"], "obs has no column 'slide'; set --section to one of"),
        (["--cell-type=kind"], "obs has no column 'kind'; set --cell-type to one of"),
        (["--position=X_pca"], "obsm has no key 'X_pca'; set --position to the key"),
        (["--layer=raw"], "set --layer to one of its layers"),
    ],
)
@pytest.mark.parametrize("verb", ["stage1", "prepare"])
def test_mistakes_are_told_by_flags(
    verb: str, words: list[str], told: str, file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A command says which flag to set, in one sentence, with exit 2, and writes nothing."""
    assert main(["data", verb, str(file), "-o", str(tmp_path / "out"), *words]) == 2
    said = capsys.readouterr().err
    assert told in said
    assert "`" not in said
    assert not (tmp_path / "out").exists()


def test_knobs_in_messages_become_flags() -> None:
    """Names in backticks and values to set; what only looks like a knob stays."""
    said = "scale = 3: set scale = false, or target_sum = 1e4, or name `cell_type`; set dims = '2'; a layer stays"
    assert as_flags(said, [Stage1, Transform]) == (
        "scale = 3: set --no-scale, or --target-sum 1e4, or name --cell-type; set --dims 2; a layer stays"
    )


@given(hnp.arrays(np.float32, st.tuples(st.integers(0, 9), st.integers(1, 4)), elements=st.floats(width=32)), st.data())
@settings(deadline=None, max_examples=40)
def test_numbers_are_read_where_they_lie(values: np.ndarray, data: st.DataObject) -> None:
    """Vectors and numbers of any part of an Arrow array, bit by bit what was written."""
    count, width = values.shape
    begin = data.draw(st.integers(0, count))
    end = data.draw(st.integers(begin, count))
    flat = pa.array(values.ravel())
    rows = pa.FixedSizeListArray.from_arrays(flat, width).slice(begin, end - begin)
    found = shards._vectors(rows, np.float32, width)
    assert found.tobytes() == values[begin:end].tobytes()
    assert found.shape == (end - begin, width)
    assert shards._numbers(flat.slice(begin), np.float32).tobytes() == values.ravel()[begin:].tobytes()
