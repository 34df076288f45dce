"""`core data split` and `core data fetch`, and how a file finds its reader."""

from __future__ import annotations

import hashlib
import io
import json
import urllib.error
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest

from core.config import Layer, resolve
from core.errors import RunFailed, UserError
from core.kinds import Data, System
from core.params import params, slot
from core.registry import Registry, installed
from plugins.data import screen_fetch
from plugins.data.screen_cut import ScreenCut
from screens import adata, read, saved

SCREEN = b"a screen, as far as checksums are concerned"
ENTRY = {
    "name": "Norman.h5ad", "size": len(SCREEN), "computed_md5": hashlib.md5(SCREEN).hexdigest(),
    "download_url": "https://ndownloader.figshare.com/files/1",
}  # fmt: skip


@pytest.fixture(autouse=True)
def unprobed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files written here are sound: the look at their structure, a process each, is left out."""
    monkeypatch.setattr("plugins.data.anndata_file._probe", lambda path: None)


class TestSplit:
    """`core data split`."""

    def test_what_is_written_is_what_is_trained_by(self, tmp_path: Path, core: Callable) -> None:
        """The file holds the division of the same flags, and data that are cut by it have the same fingerprint."""
        cells = saved(tmp_path / "cells.h5ad", adata())
        out = tmp_path / "split.json"
        said = core(
            "data", "split", str(cells), "-o", str(out), "--cut.by", "holdout", "--cut.hold=C,D", "--covariates=kind"
        )
        assert said.code == 0
        assert "train" in said.err
        by_flags = read(cells, covariates=("kind",), cut=ScreenCut(by="holdout", hold=("C", "D"))).open()
        by_file = read(cells, covariates=("kind",), cut=ScreenCut(by="file", file=str(out))).open()
        assert by_file.describe().fingerprint == by_flags.describe().fingerprint
        told = json.loads(out.read_text())
        assert told["test"] == list(by_flags.division.units["test"])
        assert told["categories"]["C+D|B"] == "combo_seen0"

    @pytest.mark.parametrize(
        ("words", "says"),
        [
            ([], "takes one .h5ad file, not 0"),
            (["cells.h5ad"], "Name the file to write with -o"),
            (["cells.h5ad", "-o", "no/split.json"], "its folder is not there"),
            (["cells.h5ad", "-o", "."], "is a folder"),
            (["cels.h5ad", "-o", "s.json"], "no such file; .h5ad files beside it: cells.h5ad. Did you mean"),
            (["cells.h5ad", "-o", "s.json", "--cut.by", "holdot"], "Did you mean 'holdout'?"),
            (["cells.h5ad", "-o", "s.json", "--cut.hol", "C"], "cut.hol: unknown parameter. Did you mean 'hold'?"),
            (["cells.h5ad", "-o", "s.json", "--cut.folds", "2"], "cut.folds: 2 does nothing"),
        ],
    )
    def test_mistakes(
        self, words: list[str], says: str, tmp_path: Path, core: Callable, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Exit code 2, one sentence, nothing written."""
        monkeypatch.chdir(tmp_path)
        saved(tmp_path / "cells.h5ad", adata())
        said = core("data", "split", *words, *(["--cut.by", "additive"] if "--cut.folds" in words else []))
        assert (said.code, says in said.err) == (2, True)
        assert [path.name for path in tmp_path.iterdir()] == ["cells.h5ad"]

    def test_a_split_is_written_over_only_with_force(self, tmp_path: Path, core: Callable) -> None:
        """What stands in a file that is there is kept, unless --force says otherwise."""
        cells, out = saved(tmp_path / "cells.h5ad", adata()), tmp_path / "split.json"
        out.write_text("mine")
        words = ("data", "split", str(cells), "-o", str(out), "--cut.by=holdout", "--cut.hold=C,D")
        said = core(*words)
        assert said.code == 2
        assert f"-o {out} is there already" in said.err
        assert out.read_text() == "mine"
        assert core(*words, "--force").code == 0
        assert json.loads(out.read_text())["scheme"] == "holdout"

    def test_help(self, core: Callable) -> None:
        """Both subcommands tell what they do, and name the public addresses."""
        assert "--cut.by" in core("data", "split", "--help").out
        told = core("data", "fetch", "--help").out
        assert "https://figshare.com/articles/dataset/24688110" in told
        assert "25062230" in told


def archive(listing: Any, content: bytes = SCREEN) -> Callable[[str], Any]:
    """An opener that serves the listing of the archive, and a file."""

    def opener(address: str) -> Any:
        return io.BytesIO(json.dumps(listing).encode() if address.startswith("https://api.figshare.com/") else content)

    return opener


def offline(address: str) -> Any:
    raise urllib.error.URLError("no route to host")


class TestFetch:
    """`core data fetch`."""

    def fetch(self, out: Path, **changes: Any) -> tuple[str, list[str]]:
        told: list[str] = []
        knobs = {"given": None, "sha256": "", "tell": told.append, "opener": archive([ENTRY])} | changes
        return screen_fetch.fetch("norman", out, **knobs), told

    def test_a_download_is_compared_with_the_archives_list(self, tmp_path: Path) -> None:
        """Size and MD5 are checked, the SHA-256 is written down, and a second fetch is compared with it."""
        out = tmp_path / "norman.h5ad"
        sha, told = self.fetch(out)
        assert out.read_bytes() == SCREEN
        assert sha == hashlib.sha256(SCREEN).hexdigest()
        assert "size and MD5 are those" in told[1]
        assert "no earlier one is known" in told[2]
        assert json.loads((tmp_path / "norman.h5ad.sha256.json").read_text())["sha256"] == sha
        assert "that of norman.h5ad.sha256.json" in self.fetch(out)[1][-1]
        assert "that of --sha256 and of norman.h5ad.sha256.json" in self.fetch(out, sha256=sha.upper())[1][-1]

    def test_a_copy_needs_no_network(self, tmp_path: Path) -> None:
        """A given file is copied and checked; nothing is asked of the archive."""
        (tmp_path / "copy.h5ad").write_bytes(SCREEN)
        out = tmp_path / "norman.h5ad"
        self.fetch(out, given=tmp_path / "copy.h5ad", opener=offline)
        assert out.read_bytes() == SCREEN

    @pytest.mark.parametrize(
        ("changes", "error", "says"),
        [
            (
                {"opener": offline},
                RunFailed,
                "cannot be reached .no route to host.: download norman.h5ad from https.*--from",
            ),
            ({"opener": archive([])}, RunFailed, "lists no .h5ad file as expected"),
            ({"opener": archive({"message": "gone"})}, RunFailed, "lists no .h5ad file as expected"),
            ({"opener": archive([ENTRY], SCREEN[:-1])}, UserError, "came with 42 bytes and MD5 .*nothing is kept"),
            ({"opener": archive([ENTRY | {"download_url": "file:///etc/passwd"}])}, RunFailed, "which is not https"),
            ({"sha256": "0" * 64}, UserError, "not the one of --sha256"),
            ({"sha256": "12"}, UserError, "64 characters"),
            ({"given": Path("none.h5ad")}, UserError, "--from none.h5ad: there is no such file"),
        ],
    )
    def test_what_does_not_fit_is_not_kept(
        self, changes: dict, error: type[Exception], says: str, tmp_path: Path
    ) -> None:
        """One sentence, and the folder is as it was."""
        with pytest.raises(error, match=says):
            self.fetch(tmp_path / "norman.h5ad", **changes)
        assert [*tmp_path.iterdir()] == []

    def test_another_file_than_the_first_is_refused(self, tmp_path: Path) -> None:
        """What was written down the first time holds, and the file that is there stays."""
        out = tmp_path / "norman.h5ad"
        self.fetch(out)
        (tmp_path / "copy.h5ad").write_bytes(b"another")
        with pytest.raises(UserError, match="from the first time: it is another file, not kept"):
            self.fetch(out, given=tmp_path / "copy.h5ad")
        assert out.read_bytes() == SCREEN
        (tmp_path / "norman.h5ad.sha256.json").write_text("{")
        with pytest.raises(UserError, match="cannot be read; remove it"):
            self.fetch(out)

    @pytest.mark.parametrize(
        ("words", "says"),
        [
            (["norma", "-o", "x.h5ad"], "Did you mean 'norman'?"),
            (["norman"], "Name the file to write with -o"),
            ([], "takes one name of norman, combosciplex"),
            (["norman", "-o", "x.h5ad", "--form", "y"], "has no flag --form"),
        ],
    )
    def test_mistakes(self, words: list[str], says: str, core: Callable) -> None:
        """Exit code 2 and one sentence."""
        said = core("data", "fetch", *words)
        assert (said.code, says in said.err) == (2, True)

    def test_the_command(self, tmp_path: Path, core: Callable) -> None:
        """From a copy, end to end; the copy itself is no target."""
        copy = saved(tmp_path / "copy.h5ad", adata())
        said = core("data", "fetch", "norman", "-o", str(tmp_path / "n.h5ad"), "--from", str(copy))
        assert said.code == 0
        assert "written down in n.h5ad.sha256.json" in said.err
        assert core("data", "fetch", "norman", "-o", str(copy), "--from", str(copy)).code == 2


@params
class Tree:
    """A system beside its data, as a run has them."""

    system: System = slot("spatial", "the task", inline=True)
    data: Data = slot("tissue", "what to train on")


def test_a_file_is_opened_by_the_reader_of_its_system() -> None:
    """Beside a system that has a reader of its own, a file's ending means that one; elsewhere it does not."""
    registry = Registry()
    for kind in installed().kinds():
        for one in installed().rows(kind):
            registry._rows[kind, one.name] = [one]
    registry._rows["system", "perturb"] = [attrs.evolve(installed().find("system", "spatial").row, name="perturb")]

    def chosen(**said: str) -> Any:
        entries = {key: (value, "CLI") for key, value in said.items()}
        return resolve(Tree, [Layer("CLI", entries)], registry).settings["data"].value

    assert chosen(system="perturb", data="cells.h5ad") == "perturb_h5ad"
    assert chosen(data="cells.h5ad") == "h5ad"
    assert chosen(system="perturb", data="h5ad", **{"data.path": "x.h5ad"}) == "h5ad"
    with pytest.raises(UserError, match="'screen' is made for the system 'perturb', not for 'spatial': give --system"):
        chosen(data="screen")
