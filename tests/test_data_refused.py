"""Preprocessing: what is refused, how cells are divided, and what the command says."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import UserError
from fakes import python
from plugins.data import anndata_file, stage2
from plugins.data.division import Ratios, divide
from plugins.data.panel import read_panel
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


class TestForeignFiles:
    """Nothing is opened that the manifest does not list."""

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
    """Bad input: one clear sentence each, and nothing is left behind."""

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

    def test_nothing_expressed(self, tmp_path: Path) -> None:
        """A section without a count is noted; where no section has any, nothing is made of them."""
        data = cells()
        data.X = data.X * 0
        with pytest.raises(UserError, match=r"X is 0 for every cell and every gene of the panel.*--layer"):
            stage(tmp_path / "mid", save(tmp_path / "a.h5ad", data))
        assert not (tmp_path / "mid").exists()

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
        """A missing type is -1, unknown."""
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
    """How cells come into splits."""

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
        (site / "acme" / "verbs.py").write_text("def obtain(words):\n    print('obtained', *words)\n")
        (site / "acme" / "registry.toml").write_text(
            'api = 1\n[verbs.data.obtain]\ntarget = "acme.verbs:obtain"\nsummary = "public data sets by name"\n'
            '[verbs.data.stage1]\ntarget = "acme.verbs:obtain"\nsummary = "ours"\n'
        )
        info = site / "acme-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text("[core.manifest]\nacme = acme:registry.toml\n")
        assert "public data sets by name  [acme 1.0]" in core("data").out
        assert core("data", "obtain", "norman").out == "obtained norman\n"
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
