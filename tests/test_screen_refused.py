"""What no model of perturbations can use is refused in one sentence that says what to do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest

from core.errors import UserError
from plugins.data.screen_prepare import ScreenPrepare
from screens import LABELS, adata, read, saved

Change = Callable[[anndata.AnnData], anndata.AnnData | None]


@pytest.fixture(autouse=True)
def unprobed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files written here are sound: the look at their structure, a process each, is left out."""
    monkeypatch.setattr("plugins.data.anndata_file._probe", lambda path: None)


def _labels(labels: list[Any]) -> Change:
    def change(data: anndata.AnnData) -> None:
        data.obs["condition"] = np.array(labels * len(data), object)[: len(data)]

    return change


def _first(value: float) -> Change:
    def change(data: anndata.AnnData) -> None:
        data.X[0, 3] = value

    return change


def _renamed(column: str) -> Change:
    def change(data: anndata.AnnData) -> None:
        data.obs.rename(columns={"condition": column}, inplace=True)

    return change


def _twice(data: anndata.AnnData) -> None:
    names = list(data.var_names)
    data.var_names = [names[1], *names[1:]]


def _one_kind(data: anndata.AnnData) -> None:
    data.obs["kind"] = np.where((data.obs["condition"] == "ctrl").to_numpy(), "T", "B")


def _logs(data: anndata.AnnData) -> None:
    data.X = np.log1p(data.X)


@pytest.mark.parametrize(
    ("change", "knobs", "says"),
    [
        (_renamed("conditions_x"), {}, r"has none of the columns condition, perturbation.*columns: conditions_x, kind"),
        (_renamed("target"), {"condition": "targt"}, r"has no column 'targt'; set `condition`.*mean 'target'"),
        (lambda data: None, {"covariates": ("knd",)}, r"no column 'knd'; set `covariates`.*mean 'kind'"),
        (lambda data: None, {"covariates": ("kind", "kind")}, "names a column twice"),
        (lambda data: None, {"dose": "dos"}, "no column 'dos'; set `dose`"),
        (lambda data: None, {"layer": "othr"}, r"has no layers/othr.*\(other\)"),
        (lambda data: None, {"control": ("DMSO",)}, r"no cell is a control; conditions are C, D.*`control`"),
        (_labels(["ctrl"]), {}, "every cell is a control"),
        (_labels(["ctrl", None, "A"]), {}, "names no condition for 22 of 66 cells"),
        (_labels(["ctrl", "A", "A+"]), {}, r"the label 'A\+' names a perturbation without a name"),
        (_labels(["ctrl", "A", "B", "A_B"]), {}, r"A_B looks like several.*set it to '_'"),
        (_labels(["ctrl", "A", "B|C"]), {}, "kept for joining"),
        (
            _labels([*["ctrl", "A"] * 30, "lonely", *["B"] * 5]),
            {},
            r"1 condition\(s\) have a single cell.*lonely.*'drop'",
        ),
        (_one_kind, {"covariates": ("kind",)}, "no control cells of kind = B"),
        (_first(np.nan), {}, "NaN or infinite values, for instance in gene 'gene3'"),
        (_first(np.inf), {}, "NaN or infinite values"),
        (_first(-1.0), {}, "negative values .down to -1.*`layer`"),
        (_first(40.0), {"prepare": ScreenPrepare(transform="none")}, "reaches 40.*look like counts"),
        (_logs, {"prepare": ScreenPrepare(transform="counts")}, "fractions below 15.*look like logarithms"),
        (_logs, {"prepare": ScreenPrepare(transform="log1p")}, "fractions below 15.*look like logarithms"),
        (lambda t: t, {"prepare": ScreenPrepare(transform="log1p")}, "whole numbers only.*look like counts"),
        (_twice, {}, r"1 gene\(s\) more than once, the first is 'gene1'"),
        (lambda data: data[:0].copy(), {}, "is empty .0 cells"),
    ],
)
def test_a_file_that_cannot_be_used(change: Change, knobs: dict, says: str, tmp_path: Path) -> None:
    """One sentence that names the file, what is wrong and what to do."""
    data = adata()
    data.obs["condition"] = data.obs["condition"].astype(object)
    changed = change(data)
    data = data if changed is None else changed
    with pytest.raises(UserError, match=says) as caught:
        read(saved(tmp_path / "cells.h5ad", data), **knobs).open()
    assert "\n" not in str(caught.value)
    assert "cells.h5ad" in str(caught.value) or "covariates" in str(caught.value)


def test_a_path_that_is_no_file(tmp_path: Path) -> None:
    """A folder, a misspelt name, and a file of something else."""
    saved(tmp_path / "cells.h5ad", adata())
    with pytest.raises(UserError, match=r"is a folder: name one .h5ad file .in this folder: cells.h5ad"):
        read(tmp_path).open()
    with pytest.raises(UserError, match=r"no such file.*mean 'cells.h5ad'"):
        read(tmp_path / "cels.h5ad").open()
    (tmp_path / "text.h5ad").write_text("no HDF5")
    with pytest.raises(UserError, match=r"text.h5ad cannot be read as an h5ad file"):
        read(tmp_path / "text.h5ad").open()


@pytest.mark.parametrize("wrong", [{"separator": ""}, {"control": ()}])
def test_knobs_are_checked(wrong: dict, tmp_path: Path) -> None:
    """A separator and labels of control cells are something."""
    with pytest.raises(ValueError, match=next(iter(wrong))):
        read(tmp_path / "cells.h5ad", **wrong)


def test_labels_of_these_tests_hold_every_spelling() -> None:
    """The files above are as users have them: control beside a perturbation on either side, doubles in any order."""
    assert {"ctrl", "A+ctrl", "ctrl+B", "D+C"} <= set(LABELS)
