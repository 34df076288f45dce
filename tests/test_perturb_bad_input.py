"""What users of system `perturb` get wrong: status 2, one sentence, nothing executed and nothing half-written."""

from __future__ import annotations

import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest

import scgpt
from core.cli import main
from response_run import SMALL
from screens import adata, saved

Change = Callable[[anndata.AnnData], anndata.AnnData]


pytestmark = pytest.mark.usefixtures("unprobed")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a screen of counts and one of logarithms, and a run on each."""
    folder = tmp_path_factory.mktemp("bad")
    saved(folder / "counts.h5ad", adata())
    saved(folder / "logs.h5ad", logs(adata())[:, :9].copy())
    for name in ("counts", "logs"):
        assert main(["run", *SMALL, f"--data={folder}/{name}.h5ad", "-o", str(folder / name)]) == 0
    return folder


@pytest.fixture
def refused(core: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Run a command in a folder; it must fail with status 2, say one line, and leave the folder as it was."""
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> str:
        before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
        said = core(*words)
        assert said.code == 2
        assert said.err.startswith("core: ")
        assert said.err.count("\n") == 1
        assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before
        return said.err

    return run


def logs(data: anndata.AnnData) -> anndata.AnnData:
    data.X = np.log1p(1e4 * data.X / data.X.sum(1, keepdims=True))
    return data


def twice(data: anndata.AnnData) -> anndata.AnnData:
    data.var_names = ["gene1", *data.var_names[1:]]
    return data


def lonely(data: anndata.AnnData) -> anndata.AnnData:
    return data[[*range(6), *range(7, len(data))][:7] + [*range(12, len(data))]].copy()


def treated(data: anndata.AnnData) -> anndata.AnnData:
    return data[(data.obs["condition"] != "ctrl").to_numpy()].copy()


def fractions(data: anndata.AnnData) -> anndata.AnnData:
    return logs(data)


def same(data: anndata.AnnData) -> anndata.AnnData:
    return data


TRAIN: dict[str, tuple[Change, tuple[str, ...], str]] = {
    "duplicate genes": (twice, (), "1 gene(s) more than once, the first is 'gene1'"),
    "counts as logarithms": (same, ("--data.prepare.transform=none",), "holds whole numbers only"),
    "logarithms as counts": (fractions, ("--data.prepare.transform=counts",), "which look like logarithms already"),
    "one cell": (lonely, (), "1 condition(s) have a single cell"),
    "no controls": (treated, (), "no cell is a control"),
    "no scGPT folder": (same, ("--extractor=scgpt(dir=nowhere)",), "scgpt: "),
    "an empty scGPT folder": (same, ("--extractor=scgpt(dir=empty)",), "scgpt: "),
    "no such column": (same, ("--data.condition=perturbation",), "obs has no column 'perturbation'"),
}


@pytest.mark.parametrize("case", TRAIN)
def test_training(case: str, refused: Callable[..., str], tmp_path: Path) -> None:
    """`core run` on data or with pieces that cannot be used trains nothing and makes no run."""
    change, words, says = TRAIN[case]
    (tmp_path / "empty").mkdir()
    saved(tmp_path / "bad.h5ad", change(adata()))
    small = [word for word in SMALL if not (case.endswith("scGPT folder") and word.startswith("--extractor"))]
    assert says in refused("run", *small, "--data=bad.h5ad", *words, "-o", "run")


SAMPLE: dict[str, tuple[Change, tuple[str, ...], str]] = {
    "unknown perturbation": (same, ("--data.asked.conditions=A+Bb",), "'Bb' of 'A+Bb' is not among the 5"),
    "unknown perturbation in the file": (
        lambda a: anndata.AnnData(a.X, a.obs.replace({"condition": {"C": "Q"}}), a.var), (), "perturbation 'Q'",
    ),
    "duplicate genes": (twice, ("--data.asked.conditions=A",), "names gene 'gene1' more than once"),
    "no controls": (treated, ("--data.asked.conditions=A",), "no cell is a control"),
    "logarithms for counts": (fractions, ("--data.asked.conditions=A",), "the run was trained on counts"),
    "other genes": (
        lambda a: anndata.AnnData(a.X, a.obs, pd.DataFrame(index=[f"x{i}" for i in range(12)])),
        ("--data.asked.conditions=A",), "has none of the 12 genes",
    ),
    "no cells": (lambda a: a[:0].copy(), ("--data.asked.conditions=A",), "holds no cell"),
    "not finite": (
        lambda a: anndata.AnnData(np.where(a.X > 5, np.nan, a.X), a.obs, a.var),
        ("--data.asked.conditions=A",), "NaN or infinite",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", SAMPLE)
def test_predicting(case: str, refused: Callable[..., str], home: Path, tmp_path: Path) -> None:
    """`core sample` with conditions or cells that the model cannot take writes nothing."""
    change, words, says = SAMPLE[case]
    saved(tmp_path / "cells.h5ad", change(adata()))
    assert says in refused("sample", f"{home}/counts", "cells.h5ad", "--mode=response", "-o", "made.h5ad", *words)


def test_counts_for_a_model_of_logarithms(refused: Callable[..., str], home: Path, tmp_path: Path) -> None:
    """Small counts too are no logarithms: they are whole numbers."""
    saved(tmp_path / "cells.h5ad", adata())
    words = ("--mode=response", "-o", "made.h5ad", "--data.asked.conditions=A")
    told = refused("sample", f"{home}/logs", "cells.h5ad", *words)
    assert "whole numbers only" in told
    assert "the run was trained on logarithms" in told


@pytest.mark.parametrize("case", ["duplicate genes", "counts", "no controls", "no such column"])
def test_judging(case: str, refused: Callable[..., str], home: Path, tmp_path: Path) -> None:
    """`core evaluate PREDICTED REAL` of files that cannot be compared writes no scores."""
    change, says = {
        "duplicate genes": (twice, "more than once (gene1)"),
        "counts": (same, "holds whole numbers only, up to"),
        "no controls": (treated, "holds no control cells"),
        "no such column": (same, "has no obs['what']"),
    }[case]
    data = adata() if case == "counts" else logs(adata())
    saved(tmp_path / "real.h5ad", change(data))
    words = ["--condition=what"] if case == "no such column" else []
    assert says in refused("evaluate", "real.h5ad", "real.h5ad", "-o", "scores.json", *words)


def test_genes_that_only_one_side_has(core: Callable[..., Any], home: Path, tmp_path: Path) -> None:
    """Genes that the checkpoint lacks are told and not predicted; genes that the file lacks are told as well."""
    cells = adata()
    cells.var_names = [*cells.var_names[:-1], "new"]
    saved(tmp_path / "cells.h5ad", cells)
    words = ("--mode=response", "--data.asked.conditions=A", "-o", str(tmp_path / "made.h5ad"))
    said = core("sample", f"{home}/counts", str(tmp_path / "cells.h5ad"), *words)
    assert said.code == 0
    assert "1 genes of cells.h5ad: X are not in the run and not predicted" in said.err
    assert (
        "1 of the 12 genes of the run are not in cells.h5ad: X and are taken at their training mean: gene11" in said.err
    )
    made = anndata.read_h5ad(tmp_path / "made.h5ad")
    assert made.var_names.tolist() == adata().var_names.tolist()
    assert np.isfinite(made.X).all()


@pytest.mark.parametrize("name", ["checkpoints", "fitted.safetensors", "preparation.json"])
@pytest.mark.parametrize("sealed", [True, False])
def test_a_checkpoint_of_another_gene_list(
    name: str, sealed: bool, refused: Callable[..., str], home: Path, tmp_path: Path
) -> None:
    """Files of two runs never make one model, whether the run wrote down their hashes or is of an earlier version."""
    run = tmp_path / "run"
    shutil.copytree(home / "counts", run)
    there = run / name
    if there.is_dir():
        shutil.rmtree(there)
        shutil.copytree(home / "logs" / name, there)
    else:
        shutil.copy(home / "logs" / name, there)
    if not sealed:
        text = (run / "run.json").read_text()
        (run / "run.json").write_text(text.replace('"files": {', '"was": {'))
    saved(tmp_path / "cells.h5ad", logs(adata()) if name == "preparation.json" else adata())
    words = ("--mode=response", "--data.asked.conditions=A", "-o", "made.h5ad")
    told = refused("sample", "run", "cells.h5ad", *words)
    assert ("is not the file that the model was written with" in told) == sealed
    assert sealed or "9" in told


class _Harm:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


def test_a_malicious_pickle_as_weights(core: Callable[..., Any], home: Path, tmp_path: Path) -> None:
    """`best_model.pt` that would call something is refused, and the call is not made."""
    folder, harm = scgpt.folder(tmp_path / "scgpt"), tmp_path / "harm"
    (folder / "best_model.pt").write_bytes(pickle.dumps({"encoder.embedding.weight": _Harm(harm)}, protocol=2))
    cells = adata()
    cells.var_names = [*scgpt.NAMES[:12]]
    saved(tmp_path / "cells.h5ad", cells)
    words = [word for word in SMALL if not word.startswith("--extractor")]
    said = core(
        "run", *words, f"--data={tmp_path}/cells.h5ad", f"--extractor=scgpt(dir={folder})", "-o", str(tmp_path / "r")
    )
    assert said.code == 2
    assert "nothing of it was run" in said.err
    assert said.err.count("\n") == 1
    assert not harm.exists()


def test_a_malicious_pickle_in_a_checkpoint(core: Callable[..., Any], home: Path, tmp_path: Path) -> None:
    """The state of the trainer in a run that somebody sent runs nothing either."""
    run, harm = tmp_path / "run", tmp_path / "harm"
    shutil.copytree(home / "counts", run)
    (state,) = run.glob("checkpoints/*/trainer.pt")
    state.write_bytes(pickle.dumps(_Harm(harm), protocol=2))
    said = core("evaluate", str(run))
    assert said.code == 2
    assert said.err.count("\n") == 1
    assert not harm.exists()
