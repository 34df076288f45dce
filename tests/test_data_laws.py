"""The laws of data, for both plugins and every way a matrix can be stored."""

from __future__ import annotations

from pathlib import Path

import anndata
import attrs
import numpy as np
import pytest
import scipy.sparse as sp

from core.kinds.data import Data
from core.testing.data import DataLaws
from plugins.data.cut import Cut
from plugins.data.h5ad import H5ad
from plugins.data.prepare import Prepare
from plugins.data.sets import Sets
from plugins.data.tissue import Tissue

SMALL = Tissue(sections=3, cells=70, genes=20, types=4, sets=Sets(size=25, per_batch=2), cut=Cut(), prepare=Prepare())


class TestTissue(DataLaws):
    """Three simulated sections, one held out."""

    def make(self, folder: Path) -> Data:
        return SMALL

    def others(self, folder: Path) -> list[Data]:
        changes: list[dict] = [
            {"seed": 1},
            {"depth": 601.0},
            {"dropout": 0.06},
            {"sets": Sets(size=26, per_batch=2)},
            {"sets": Sets(size=25, per_batch=3)},
            {"sets": Sets(size=25, per_batch=2, draw="patch")},
            {"sets": Sets(size=25, per_batch=2, draw="section")},
            {"cut": Cut(seed=1)},
            {"cut": Cut(section="section1")},
            {"cut": Cut(by="cell")},
            {"prepare": Prepare(clip=9.0)},
            {"prepare": Prepare(target_sum=100.0)},
            {"prepare": Prepare(transform="log1p")},
        ]
        return [attrs.evolve(SMALL, **change) for change in changes]


class TestSolidTissue(DataLaws):
    """Five simulated blocks in three dimensions; validation holds one out."""

    def make(self, folder: Path) -> Data:
        return attrs.evolve(SMALL, dims=3, sections=5)

    def others(self, folder: Path) -> list[Data]:
        return [SMALL, attrs.evolve(SMALL, dims=3), attrs.evolve(SMALL, sections=5)]


class TestPatches(DataLaws):
    """Simulated sections dealt in sets of neighbours, or whole."""

    @pytest.fixture(params=["patch", "section"], autouse=True)
    def form(self, request: pytest.FixtureRequest) -> None:
        self.draw_is = request.param

    def make(self, folder: Path) -> Data:
        return attrs.evolve(SMALL, sections=6, sets=Sets(size=25, per_batch=2, draw=self.draw_is))

    def others(self, folder: Path) -> list[Data]:
        return [attrs.evolve(SMALL, sections=6)]


class TestOneSection(DataLaws):
    """One simulated section, cut by cell."""

    def make(self, folder: Path) -> Data:
        return attrs.evolve(SMALL, sections=1)

    def others(self, folder: Path) -> list[Data]:
        return [attrs.evolve(SMALL, sections=1, cut=Cut(test=0.3))]


class TestH5ad(DataLaws):
    """Files with a dense, a CSR and a CSC matrix, read whole or by row."""

    @pytest.fixture(params=["dense", "csr", "csc", "dense backed", "csr backed"], autouse=True)
    def form(self, request: pytest.FixtureRequest) -> None:
        self.form_is = request.param

    def make(self, folder: Path) -> Data:
        return self._save(folder / "cells.h5ad", 0.0)

    def others(self, folder: Path) -> list[Data]:
        data = self._save(folder / "cells.h5ad", 0.0)
        return [
            self._save(folder / "other.h5ad", 1.0),
            attrs.evolve(data, cell_type="kind"),
            attrs.evolve(data, cut=Cut(test=0.4)),
            attrs.evolve(data, layer="other"),
        ]

    def _save(self, path: Path, extra: float) -> H5ad:
        rng = np.random.default_rng(0)
        counts = rng.poisson(1.0, (90, 12)).astype(np.float32)
        counts[0, 0] += extra
        form, _, backed = self.form_is.partition(" ")
        convert = {"dense": np.asarray, "csr": sp.csr_matrix, "csc": sp.csc_matrix}[form]
        cells = anndata.AnnData(convert(counts), layers={"other": convert(counts + 1)})
        cells.obs["section"] = np.array(["s10", "s2"])[np.arange(90) % 2]
        cells.obs["kind"] = np.array(["a", "b", None], object)[np.arange(90) % 3]
        cells.obsm["spatial"] = rng.normal(size=(90, 2)) * 100
        if not path.exists():
            cells.write_h5ad(path)
        sets = Sets(size=20, per_batch=2)
        return H5ad(path=str(path), backed=bool(backed), sets=sets, cut=Cut(), prepare=Prepare())
