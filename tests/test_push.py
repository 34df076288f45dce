"""`core push`: what goes to the Hub, through a stand-in for its client; and what `datasets` makes of a folder."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest

from core.cli import push
from core.errors import UserError
from plugins.data import anndata_file
from prepared import cells, merge, save, stage


@attrs.define
class Stand:
    """Records what a Hub's client is asked for."""

    calls: list[tuple[str, Any]] = attrs.field(factory=list)
    fails: bool = False

    def create_repo(self, repo_id: str, *, repo_type: str, private: bool, exist_ok: bool) -> None:
        self.calls.append(("create", (repo_id, repo_type, private, exist_ok)))

    def create_commit(self, repo_id: str, operations: Any, *, commit_message: str, repo_type: str) -> None:
        if self.fails:
            raise ConnectionError("401 Client Error")
        self.calls.append(("commit", {o["path_in_repo"]: Path(o["path_or_fileobj"]).read_bytes() for o in operations}))


@pytest.fixture
def stand(monkeypatch: pytest.MonkeyPatch) -> Stand:
    hub = Stand()
    monkeypatch.setattr(push, "client", lambda: (hub, dict))
    return hub


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(anndata_file, "_probe", lambda path: None)
    stage(tmp_path / "mid", save(tmp_path / "a.h5ad", cells()))
    return merge(tmp_path / "out", tmp_path / "mid").path


def test_only_what_the_manifest_lists(core: Callable, made: Path, stand: Stand) -> None:
    """The files of the manifest and the manifest itself, byte by byte, in one commit to a private data set."""
    (made / ".cache").mkdir()
    (made / ".cache" / "secret").write_text("hf_token")
    said = core("push", str(made), "my-lab/cortex")
    assert (said.code, said.out) == (0, "https://huggingface.co/datasets/my-lab/cortex\n")
    assert stand.calls[0] == ("create", ("my-lab/cortex", "dataset", True, True))
    ((name, files),) = stand.calls[1:]
    assert name == "commit"
    listed = json.loads((made / "manifest.json").read_text())["files"]
    assert files.keys() == {*listed, "manifest.json"}
    assert all(data == (made / path).read_bytes() for path, data in files.items())


def test_public_must_be_said(core: Callable, made: Path, stand: Stand) -> None:
    """A data set is public only where the flag says so."""
    core("push", str(made), "my-lab/cortex", "--public")
    assert stand.calls[0][1][2] is False


def test_dry_run(core: Callable, made: Path, stand: Stand) -> None:
    """A dry run names the files and asks the Hub for nothing."""
    said = core("push", str(made), "my-lab/cortex", "--dry-run")
    assert "data/train-00000-of-00001.parquet" in said.out
    assert not stand.calls


def test_changed_files_stay(core: Callable, made: Path, stand: Stand) -> None:
    """A shard that was changed, or a file that is not listed, stops everything before the Hub is asked."""
    path = next((made / "data").glob("train-*"))
    data = bytearray(path.read_bytes())
    data[60] ^= 1
    path.write_bytes(data)
    said = core("push", str(made), "my-lab/cortex")
    assert said.code == 2
    assert "SHA-256 differs" in said.err
    (made / "notes.pkl").write_bytes(b"x")
    assert "holds notes.pkl" in core("push", str(made), "my-lab/cortex").err
    assert not stand.calls


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["out"], "usage: core push FOLDER"),
        (["out", "cortex"], "'cortex' is no place on the Hub"),
        (["out", "a/b/c"], "is no place on the Hub"),
        (["nowhere", "a/b"], "there is no folder 'nowhere'"),
        (["out", "a/b", "--token", "hf_x"], "takes no --token: others can read a command line"),
        (["out", "a/b", "--token=hf_x"], "takes no --token: others"),
        (["out", "a/b", "--pubic"], "Did you mean '--public'"),
    ],
)  # fmt: skip
def test_mistakes(core: Callable, stand: Stand, words: list[str], says: str) -> None:
    """A mistake is one sentence; a token on the command line is refused and not repeated."""
    said = core("push", *words)
    assert said.code == 2
    assert says in said.err
    assert "hf_x" not in said.err
    assert not stand.calls


def test_refused_by_the_hub(core: Callable, made: Path, stand: Stand) -> None:
    """What the Hub refuses is a failure with its reason, not a traceback."""
    stand.fails = True
    said = core("push", str(made), "my-lab/cortex")
    assert said.code == 1
    assert "401 Client Error" in said.err
    assert "hf auth login" in said.err


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the library, the extra that brings it is named."""
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=r"cellcore\[hub\]"):
        push.client()


if importlib.util.find_spec("huggingface_hub") is not None:

    def test_the_clients_own_words() -> None:
        """The Hub's client takes the arguments that are given it."""
        import inspect

        hub, add = push.client()
        assert {"repo_type", "private", "exist_ok"} <= inspect.signature(hub.create_repo).parameters.keys()
        assert {"operations", "commit_message", "repo_type"} <= inspect.signature(hub.create_commit).parameters.keys()
        assert add(path_in_repo="x", path_or_fileobj=b"x").path_in_repo == "x"


if importlib.util.find_spec("datasets") is not None:

    @pytest.mark.parametrize("store", ["dense", "sparse"])
    def test_datasets_load_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: str) -> None:
        """`datasets.load_dataset` gives the three splits with the columns of the files, and no network is asked."""
        monkeypatch.setattr(anndata_file, "_probe", lambda path: None)
        for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
            monkeypatch.setenv(name, "1")
        monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
        stage(tmp_path / "mid", save(tmp_path / "a.h5ad", cells()), store=store)
        out = merge(tmp_path / "out", tmp_path / "mid", shard=25, by="cell", valid=0.2, test=0.2)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import datasets

            found = datasets.load_dataset(str(out.path), cache_dir=str(tmp_path / "cache"))
        counts = out.json("metadata.json")["splits"]
        assert {name: len(rows) for name, rows in found.items()} == {
            "train": counts["train"], "validation": counts["valid"], "test": counts["test"],
        }  # fmt: skip
        first = found["train"][0]
        column = "expression" if store == "dense" else "values"
        assert np.isfinite(first[column]).all()
        assert len(first["position"]) == 2
        if store == "dense":
            assert found["train"].features["expression"].length == 8
        assert os.environ["HF_HUB_OFFLINE"] == "1"
