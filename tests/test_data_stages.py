"""Preprocessing: what the two stages write, what they refuse, and what they never do silently."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.sparse as sp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from core.errors import UserError
from core.listed import read_listed
from fakes import python
from plugins.data import anndata_file, shards, stage2
from plugins.data.division import SPLITS, Ratios, divide
from plugins.data.panel import read_panel
from plugins.data.shards import Cells, Reader, Writer
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
        """P16: what is written is read back to the last bit, in fixed-size lists of float32."""
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
        """P16: no file of either stage is anything but JSON, Parquet or the card."""
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
        """A file whose rows are shuffled gives the same cells the same numbers and the same split (P15)."""
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
    """D18: genes and labels go by name."""

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
        """Flat and solid positions are never mixed silently, in one data set or in two (D21)."""
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
    """D19, D23, P17: a folder is what content and parameters say, or it is not there."""

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


class TestForeignFiles:
    """E, D23: nothing is opened that the manifest does not list."""

    @pytest.fixture
    def made(self, tmp_path: Path, file: Path) -> Path:
        stage(tmp_path / "mid", file)
        return merge(tmp_path / "out", tmp_path / "mid").path

    def open(self, path: Path) -> None:
        from plugins.data.processed import Processed
        from plugins.data.sets import Sets

        Processed(path=str(path), sets=Sets()).open()

    @pytest.mark.parametrize("where", ["full_metadata.pkl", "data/train.parquet", "data/extra/x.bin"])
    def test_foreign(self, made: Path, tmp_path: Path, where: str) -> None:
        """A foreign pickle or shard is one clear error, and nothing in it runs."""
        mark = tmp_path / "executed"

        class Evil:
            def __reduce__(self) -> tuple:
                return os.mkdir, (str(mark),)

        target = made / where
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(pickle.dumps(Evil()))
        for look in (self.open, lambda path: stage2.stage2([str(path)], stage2.Stage2(out="x"), Ratios(), print)):
            with pytest.raises(UserError) as caught:
                look(made)
        with pytest.raises(UserError, match=f"holds {where}, which its manifest.json does not list"):
            self.open(made)
        assert caught
        assert not mark.exists()

    def test_missing(self, made: Path) -> None:
        """A shard that is gone is missed."""
        next((made / "data").glob("test-*")).unlink()
        with pytest.raises(UserError, match=r"lacks data/test-00000-of-00001.parquet, which its manifest.json lists"):
            self.open(made)

    def test_cut_short(self, made: Path) -> None:
        """A shard of another size is not read."""
        path = next((made / "data").glob("test-*"))
        path.write_bytes(path.read_bytes()[:-1])
        with pytest.raises(UserError, match="is not of the size"):
            self.open(made)

    def test_metadata_changed(self, made: Path) -> None:
        """Metadata that were edited are refused."""
        path = made / "metadata.json"
        path.write_text(path.read_text().replace("Gene0", "Gene9"))
        with pytest.raises(UserError, match="is not the file that"):
            self.open(made)

    @pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema": 9}', '{"schema": 1, "made": "core data stage2"}'])
    def test_no_manifest(self, made: Path, text: str) -> None:
        """A manifest that is none is refused."""
        (made / "manifest.json").write_text(text)
        with pytest.raises(UserError, match=r"manifest|schema"):
            self.open(made)

    def test_a_manifest_leads_nowhere_else(self, made: Path) -> None:
        """A manifest cannot name files outside its folder."""
        said = json.loads((made / "manifest.json").read_text())
        said["files"]["../secret"] = [0, "0"]
        (made / "manifest.json").write_text(json.dumps(said))
        with pytest.raises(UserError, match="leads out of the folder"):
            self.open(made)

    @pytest.mark.parametrize("name", [".git", ".cache", ".gitattributes"])
    def test_bystanders(self, made: Path, name: str) -> None:
        """What git and the Hub's client leave in a folder is no reason to refuse it."""
        (made / name).mkdir()
        (made / name / "x").write_text("x")
        self.open(made)

    def test_damaged_values(self, made: Path) -> None:
        """A bit that flipped inside a shard is noticed when it is read."""
        from core.train.streams import Streams
        from plugins.data.processed import Processed
        from plugins.data.sets import Sets

        for path in (made / "data").glob("train-*"):
            data = bytearray(path.read_bytes())
            data[400] ^= 255
            path.write_bytes(data)
        split = Processed(path=str(made), sets=Sets()).open().split("train", Streams(0))
        with pytest.raises(UserError, match="damaged"):
            split.batch(0, 0)


Change = Callable[[anndata.AnnData], object]


def put(key: str, value: object) -> Change:
    return lambda data: data.obsm.__setitem__(key, value)


class TestRefused:
    """D20-D22 and bad input: one clear sentence each, and nothing is left behind."""

    @pytest.mark.parametrize(
        ("change", "flags", "says"),
        [
            (lambda d: (put("X_umap", d.obsm["spatial"])(d), d.obsm.pop("spatial")), {},
             r"obsm has no key 'spatial'.*there is: X_umap"),
            (put("spatial", np.full((90, 2), np.nan)), {}, "NaN or infinite for 30 of 30 cells"),
            (put("spatial", np.ones((90, 2))), {}, "puts all 30 cells at one place"),
            (put("spatial", 1e300 * np.arange(180.0).reshape(90, 2)), {}, "too large for any arithmetic"),
            (put("spatial", np.ones((90, 4))), {}, "is of shape"),
            (lambda d: d.X.data.__setitem__(0, np.nan), {}, r"1 NaN or infinite value\(s\), the first in gene 'Gene"),
            (lambda d: d.X.data.__setitem__(0, -1), {}, r"negative values \(down to -1\).*--no-normalize --no-log1p"),
            (lambda d: setattr(d, "var_names", ["Gene0"] * 2 + [f"g{i}" for i in range(6)]), {},
             r"names 1 gene\(s\) more than once \(Gene0\)"),
            (None, {"section": "sectoin"}, r"obs has no column 'sectoin'.*Did you mean 'section'"),
            (None, {"cell_type": "nothing"}, "obs has no column 'nothing'"),
            (None, {"layer": "raw"}, "has no layers/raw"),
            (lambda d: d.obs.__setitem__("section", ["one"] + ["two"] * 89), {}, "has a single cell.*--min-cells 2"),
            (None, {"min_cells": 1000}, "no section has 1000 cells"),
        ],
    )  # fmt: skip
    def test_files(self, tmp_path: Path, change: Change | None, flags: dict, says: str) -> None:
        """What a file lacks or holds wrongly is said, with the fix."""
        data = cells()
        if change:
            change(data)
        with pytest.raises(UserError, match=says):
            stage(tmp_path / "mid", save(tmp_path / "a.h5ad", data), **flags)
        assert not (tmp_path / "mid").exists()
        left = [path for path in tmp_path.rglob("*") if path.is_file() and path.name != ".lock"]
        assert all(path.suffix in (".h5ad", ".parquet", ".json") for path in left)

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ("Gene0\nGene1\nGene0", r"names 1 gene\(s\) more than once \(Gene0\)"),
            ("\n \n", "names no gene"),
            ("gene0\ngene1", r"has none of the 2 genes of the panel.*Did you mean 'Gene0'"),
            (None, "there is no such file"),
        ],
    )
    def test_panels(self, tmp_path: Path, file: Path, text: str | None, says: str) -> None:
        """A panel that cannot be used is refused; a gene twice, or none found, is no column of zeros."""
        if text is not None:
            (tmp_path / "genes.txt").write_text(text)
        with pytest.raises(UserError, match=says):
            stage(tmp_path / "mid", file, genes=str(tmp_path / "genes.txt"))

    @pytest.mark.parametrize("text", ["a\nb\nc", "a,b,c", "a\tb\tc", "a, b\n\nc\n", "\ufeffa\r\nb\r\nc\r\n"])
    def test_panel_forms(self, tmp_path: Path, text: str) -> None:
        """One a line, or separated by commas or tabs."""
        path = tmp_path / "genes.txt"
        path.write_bytes(text.encode())
        assert read_panel(path) == ("a", "b", "c")

    def test_absent_genes_are_told(self, tmp_path: Path, file: Path) -> None:
        """A gene of the panel that a file lacks is 0 there, and said so."""
        (tmp_path / "genes.txt").write_text("Gene0,Nowhere,Gene1")
        told: list[str] = []
        listed = stage(tmp_path / "mid", file, genes=str(tmp_path / "genes.txt"), told=told)
        assert all(section["absent"] == ["Nowhere"] for section in listed.json("metadata.json")["sections"])
        assert any("1 genes absent (0)" in line for line in told)
        assert {row[1] for row in rows(tmp_path / "mid").expression} == {0.0}

    def test_types_without_a_name(self, tmp_path: Path) -> None:
        """D22: a missing type is -1, unknown."""
        data = cells()
        data.obs["cell_type"] = np.array([np.nan, 1.0, 2.0])[np.arange(90) % 3]
        stage(tmp_path / "mid", save(tmp_path / "a.h5ad", data))
        merge(tmp_path / "out", tmp_path / "mid")
        found = codes(tmp_path / "out")
        assert {found[f"c{i}"] for i in range(0, 90, 3)} == {"unknown"}
        assert {found[f"c{i}"] for i in range(1, 90, 3)} == {"1.0"}

    def test_small_sections(self, tmp_path: Path) -> None:
        """Sections of two and three cells are kept, one of a single cell is left out when asked, and said so."""
        data = cells(36, sections=1)
        data.obs["section"] = ["one"] + ["two"] * 2 + ["three"] * 3 + ["four"] * 30
        told: list[str] = []
        stage(tmp_path / "mid", save(tmp_path / "a.h5ad", data), min_cells=2, told=told)
        assert any("left out, fewer than 2 cells: a:one (1)" in line for line in told)
        for by in ("section", "block", "cell"):
            merge(tmp_path / by, tmp_path / "mid", by=by, valid=0.2, test=0.2)
            assert len(rows(tmp_path / by)) == 35

    def test_the_same_file_twice(self, tmp_path: Path, file: Path) -> None:
        """A file counts once."""
        with pytest.raises(UserError, match="given twice"):
            stage(tmp_path / "mid", file, tmp_path)

    def test_logarithms_already(self, tmp_path: Path) -> None:
        """Values that look like logarithms are noted before a second logarithm is taken."""
        data = cells()
        data.X = np.log1p(data.X.toarray())
        told: list[str] = []
        stage(tmp_path / "mid", save(tmp_path / "a.h5ad", data), told=told)
        assert any("look like logarithms already" in line for line in told)


SIZES = st.lists(st.integers(2, 40), min_size=1, max_size=7)


class TestDivision:
    """P15, D23: splits."""

    @given(SIZES, st.sampled_from(["section", "block", "cell"]), st.floats(0.05, 0.4), st.floats(0.05, 0.4),
           st.integers(0, 5), st.integers(2, 9), st.randoms())  # fmt: skip
    @settings(max_examples=120, deadline=None)
    def test_divides(
        self, sizes: list[int], by: str, valid: float, test: float, seed: int, count: int, random: object
    ) -> None:
        """Every cell is in one split, no split is empty, and neither the order of sections nor of cells matters."""
        rng = np.random.default_rng(seed)
        names = [f"s{i}" for i in range(len(sizes))]
        place = {n: rng.integers(0, 9, (size, 2)).astype(float) for n, size in zip(names, sizes, strict=True)}
        name_n = {n: np.array([f"{n}-{i}" for i in range(size)], object) for n, size in zip(names, sizes, strict=True)}
        asked = Ratios(by=by, valid=valid, test=test, seed=seed, blocks=count)  # type: ignore[arg-type]
        try:
            made = divide(dict(zip(names, sizes, strict=True)), lambda n: (place[n], name_n[n]), asked)
        except UserError as error:
            refusal = str(error)
        else:
            refusal = ""
        if refusal:
            assert any(why in refusal for why in ("would be empty", "too few", "there is one section", "to train on"))
            return
        assert {n: len(c) for n, c in made.codes.items()} == dict(zip(names, sizes, strict=True))
        assert set(np.concatenate([*made.codes.values()]).tolist()) == {0, 1, 2}
        order = {n: rng.permutation(size) for n, size in zip(names, sizes, strict=True)}
        names.reverse()
        again = divide({n: len(place[n]) for n in names}, lambda n: (place[n][order[n]], name_n[n][order[n]]), asked)
        for n in names:
            assert np.array_equal(again.codes[n], made.codes[n][order[n]])

    def test_sections_stay_whole(self) -> None:
        """By section, a section is in one split; named ones are the test."""
        sizes = {f"s{i}": 5 for i in range(9)}
        made = divide(sizes, lambda name: (np.empty((5, 2)), np.empty(5)), Ratios(hold="s3, s5"))
        assert all(len(set(code.tolist())) == 1 for code in made.codes.values())
        assert {name for name, code in made.codes.items() if code[0] == 2} == {"s3", "s5"}
        assert "no cell of which is trained on" in made.sentence

    def test_leakage_is_told(self) -> None:
        """Each way says what it leaks."""
        rng = np.random.default_rng(0)
        for by, says in (("block", "leaks at edges"), ("cell", "neighbours of test cells are in train")):
            made = divide({"a": 90}, lambda name: (rng.normal(size=(90, 2)), np.arange(90)), Ratios(by=by))  # type: ignore[arg-type]
            assert says in made.sentence

    @pytest.mark.parametrize(
        ("sizes", "flags", "says"),
        [
            ({"a": 50, "b": 50, "c": 50}, {"valid": 0.6, "test": 0.5}, "leave nothing to train on: their sum"),
            ({"a": 50}, {}, "there is one section.*--by block"),
            ({"a": 50, "b": 50, "c": 50}, {"hold": "d"}, "no section is called 'd'"),
            ({"a": 50, "b": 50, "c": 50}, {"hold": "a,b,c"}, "--hold leaves no section"),
            ({"a": 50, "b": 50, "c": 50}, {"hold": "a", "by": "cell"}, "--by cell cuts them"),
            ({"a": 3}, {"by": "cell"}, "the split 'valid' would be empty"),
            ({"a": 9}, {"by": "block"}, "too few for"),
        ],
    )
    def test_refused(self, sizes: dict[str, int], flags: dict, says: str) -> None:
        """Shares that leave a split empty are refused, not fulfilled without it."""
        rng = np.random.default_rng(0)
        with pytest.raises(UserError, match=says):
            divide(sizes, lambda name: (rng.normal(size=(sizes[name], 2)), np.arange(sizes[name])), Ratios(**flags))

    @pytest.mark.parametrize("flags", [{"valid": 0.0}, {"test": 1.0}, {"test": 1.5}, {"blocks": 1}])
    def test_ratios_are_bounded(self, flags: dict) -> None:
        """A share is above 0 and below 1."""
        with pytest.raises(ValueError, match="must be"):
            Ratios(**flags)


class TestCommand:
    """What a user types and reads."""

    def test_prepare(self, core: Callable, tmp_path: Path, file: Path) -> None:
        """Both stages in one leave one folder, and the second time there is nothing to do."""
        out = tmp_path / "processed"
        said = core("data", "prepare", str(file), "-o", str(out), "--by", "block", "--blocks", "4")
        assert (said.code, said.out.strip()) == (0, str(out))
        for word in ("memory: at most about", "split:", "[3/3]", "core run --data"):
            assert word in said.err
        assert sorted(p.name for p in tmp_path.iterdir()) == ["a.h5ad", "processed"]
        again = core("data", "prepare", str(file), "-o", str(out), "--by", "block", "--blocks", "4")
        assert (again.code, again.out) == (0, said.out)
        assert "up to date" in again.err
        assert "written" not in again.err

    def test_prepare_refuses_before_it_works(self, core: Callable, tmp_path: Path, file: Path) -> None:
        """What cannot be divided is refused before the first stage, and nothing is left."""
        for flags, says in (
            (["--section", "cell_type"], "names no section for 30"),
            (["--hold", "s9"], "no section is called 's9'"),
            (["--valid", "0.7", "--test", "0.5"], "their sum is to be < 1"),
        ):
            said = core("data", "prepare", str(file), "-o", str(tmp_path / "out"), *flags)
            assert said.code == 2
            assert says in said.err
        assert [path.name for path in tmp_path.iterdir()] == ["a.h5ad"]

    def test_hold_by_short_name(self, core: Callable, tmp_path: Path, file: Path) -> None:
        """A section is held out by its own name too, where that is one section's alone."""
        said = core("data", "prepare", str(file), "-o", str(tmp_path / "out"), "--hold", "s1")
        assert "test holds out whole sections (a:s1)" in said.err

    def test_a_place_that_cannot_be(self, core: Callable, tmp_path: Path, file: Path) -> None:
        """A folder that cannot be made is a failure with its path, not a traceback."""
        (tmp_path / "plain").write_text("x")
        said = core("data", "stage1", str(file), "-o", str(tmp_path / "plain" / "mid"))
        assert said.code in (1, 2)
        assert str(tmp_path / "plain") in said.err

    def test_run(self, core: Callable, tmp_path: Path, file: Path) -> None:
        """A prepared folder is trained on by its path, whatever it is called; one called `processed` by that word."""
        out = tmp_path / "some folder"
        assert core("data", "prepare", str(file), "-o", str(out), "--by", "cell").code == 0
        said = core("run", "--data", str(out), "--width", "16", "--depth", "1", "--dry-run")
        assert said.code == 0, said.err
        assert f"data.path               {out}" in said.out
        out.rename(tmp_path / "processed")
        with contextlib.chdir(tmp_path):
            said = core("run", "--data", "processed", "--width", "16", "--depth", "1", "--dry-run")
        assert said.code == 0, said.err

    @pytest.mark.parametrize(
        ("words", "says"),
        [
            (["data", "stge1"], "Did you mean 'stage1'"),
            (["data", "stage1", "a.h5ad"], "needs -o FOLDER"),
            (["data", "stage1", "a.h5ad", "-o", "x"], "there is no file 'a.h5ad'"),
            (["data", "stage1", "-o", "x"], "name the .h5ad files"),
            (["data", "stage1", "-o", "x", "--scael"], "Did you mean '--no-scale'"),
            (["data", "stage1", "-o", "x", "--z-spacing"], "--z-spacing needs a value"),
            (["data", "stage1", "-o", "x", "--z-spacing", "far"], "--z-spacing: expected float"),
            (["data", "stage1", "-o", "x", "--z-spacing", "-1"], "z_spacing must be >= 0"),
            (["data", "stage1", "-o", "x", "--dims", "4"], "--dims: expected auto|2|3, got '4'"),
            (["data", "stage1", "-o", "x", "-o", "y"], "given twice"),
            (["data", "stage2", "-o", "x"], "name one or more folders"),
            (["data", "stage2", "nowhere", "-o", "x"], "there is no folder 'nowhere'"),
            (["data", "stage2", ".", "-o", "x"], "has no manifest.json"),
            (["data", "stage2", "nowhere", "-o", "x", "--valid", "1.2"], "valid must be > 0 and < 1"),
        ],
    )
    def test_mistakes(
        self, core: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], says: str
    ) -> None:
        """A mistake is one sentence and exit code 2, and nothing is written."""
        monkeypatch.chdir(tmp_path)
        said = core(*words)
        assert said.code == 2
        assert says in said.err
        assert not list(tmp_path.iterdir())

    def test_help_is_light(self, tmp_path: Path) -> None:
        """Help of every subcommand comes without torch."""
        code = (
            "import sys; from core.cli import main\n"
            "[main(['data', *words]) for words in ([], ['prepare', '-h'], ['stage1', '-h'], ['stage2', '--help'])]\n"
            "print('torch' in sys.modules)"
        )
        said = python("-P", "-c", code, cwd=tmp_path)
        assert said.returncode == 0
        assert said.stdout.rstrip().endswith("False")
        assert all(word in said.stdout for word in ("--z-spacing", "--no-scale", "--by section|block|cell"))

    def test_a_third_partys_subcommand(self, core: Callable, site: Path) -> None:
        """A manifest brings further subcommands, which `core data` lists without importing them."""
        (site / "acme").mkdir()
        (site / "acme" / "__init__.py").write_text("")
        (site / "acme" / "verbs.py").write_text("def fetch(words):\n    print('fetched', *words)\n")
        (site / "acme" / "registry.toml").write_text(
            'api = 1\n[verbs.data.fetch]\ntarget = "acme.verbs:fetch"\nsummary = "public data sets by name"\n'
            '[verbs.data.stage1]\ntarget = "acme.verbs:fetch"\nsummary = "ours"\n'
        )
        info = site / "acme-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text("[core.manifest]\nacme = acme:registry.toml\n")
        assert "public data sets by name  [acme 1.0]" in core("data").out
        assert core("data", "fetch", "norman").out == "fetched norman\n"
        assert "[verbs.data.stage1] is brought by cellcore" in core("list").err

    def test_other_folders_as_data(self, core: Callable, tmp_path: Path, file: Path) -> None:
        """A folder of the first stage, or of anything else, is no data to train on, and the message says what is."""
        stage(tmp_path / "mid", file)
        said = core("run", "--data", str(tmp_path / "mid"), "--dry-run")
        assert said.code == 2
        assert "was made by `core data stage1`" in said.err
        said = core("run", "--data", str(tmp_path), "--dry-run")
        assert said.code == 2
        assert "processed reads a folder that holds manifest.json and metadata.json" in said.err


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
