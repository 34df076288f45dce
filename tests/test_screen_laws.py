"""The laws of data, for both sources of perturbation screens and every way a matrix can be stored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import pytest

from core.kinds.data import Data
from core.testing.data import DataLaws
from plugins.data.screen_cut import ScreenCut
from plugins.data.screen_prepare import ScreenPrepare
from plugins.data.screen_sets import ScreenSets
from screens import FORMS, adata, read, saved, simulated


@pytest.fixture(autouse=True)
def unprobed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files written here are sound: the look at their structure, a process each, is left out."""
    monkeypatch.setattr("plugins.data.anndata_file._probe", lambda path: None)


class ScreenLaws(DataLaws):
    """What holds of screens."""

    drawn = frozenset({"control"})
    blank = {"perturbation": 0}  # noqa: RUF012
    items_alike = True


class TestScreen(ScreenLaws):
    """Singles and doubles, simulated."""

    def make(self, folder: Path) -> Data:
        return simulated()

    def others(self, folder: Path) -> list[Data]:
        changes: list[dict[str, Any]] = [
            {"seed": 1},
            {"depth": 401.0},
            {"epistasis": 0.5},
            {"shift": 0.5},
            {"sets": ScreenSets(size=5, per_batch=3)},
            {"cut": ScreenCut(fold=1)},
            {"cut": ScreenCut(by="kfold")},
            {"cut": ScreenCut(by="simulation")},
            {"prepare": ScreenPrepare(target_sum=100.0)},
            {"prepare": ScreenPrepare(genes=12)},
        ]
        return [simulated(**change) for change in changes]


class TestTypes(ScreenLaws):
    """Two cell types, one of which is held out, and one third of the genes kept."""

    def make(self, folder: Path) -> Data:
        return simulated(types=2, cut=ScreenCut(by="covariate", hold=("type2",)), prepare=ScreenPrepare(genes=6))

    def others(self, folder: Path) -> list[Data]:
        return [simulated(types=2), simulated(types=2, cut=ScreenCut(by="covariate", hold=("type1",)))]


class TestPerturbH5ad(ScreenLaws):
    """A file with a CSR matrix."""

    def make(self, folder: Path) -> Data:
        return self._save(folder / "cells.h5ad", 0)

    def others(self, folder: Path) -> list[Data]:
        data = self._save(folder / "cells.h5ad", 0)
        return [
            self._save(folder / "other.h5ad", 1),
            attrs.evolve(data, covariates=("kind",)),
            attrs.evolve(data, dose="kind"),
            attrs.evolve(data, layer="other"),
            attrs.evolve(data, cut=ScreenCut(by="kfold")),
        ]

    def _save(self, path: Path, seed: int) -> Data:
        return read(path if path.exists() else saved(path, adata(form=FORMS["csr"], seed=seed)))
