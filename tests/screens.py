"""Small screens for tests: simulated ones, and files as users have them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata
import numpy as np
import scipy.sparse as sp

from plugins.data.perturb_h5ad import PerturbH5ad
from plugins.data.screen import Screen
from plugins.data.screen_asked import Asked
from plugins.data.screen_cut import ScreenCut
from plugins.data.screen_prepare import ScreenPrepare
from plugins.data.screen_sets import ScreenSets, ScreenSource
from plugins.data.screen_table import ScreenTable, build_units
from plugins.shared.condition import Labels

GENES = tuple(f"gene{i}" for i in range(12))
LABELS = ("ctrl", "A+ctrl", "ctrl+B", "C", "D", "E", "A+B", "B+C", "D+C", "A+E", "A+D")


def simulated(**changes: Any) -> Screen:
    """A screen of 8 singles and 8 doubles, 10 cells each, 16 genes."""
    knobs: dict[str, Any] = {
        "genes": 16, "singles": 8, "doubles": 8, "cells": 10, "modules": 3, "asked": Asked(),
        "sets": ScreenSets(size=4, per_batch=3), "cut": ScreenCut(), "prepare": ScreenPrepare(),
    }  # fmt: skip
    return Screen(**{**knobs, **changes})


def adata(labels: tuple[str, ...] = LABELS, cells: int = 6, form: Any = np.asarray, seed: int = 0) -> anndata.AnnData:
    """Counts of cells with labels in `obs["condition"]`, of two cell types and two batches in turns."""
    rng = np.random.default_rng(seed)
    label_n = np.repeat(np.array(labels, object), cells)
    rate_nG = 1.0 + np.array([[(hash_of(label) >> g) % 3 for g in range(len(GENES))] for label in label_n])
    counts = rng.poisson(rate_nG).astype(np.float32)
    counts[:, 0] += 1
    out = anndata.AnnData(form(counts), layers={"other": form(counts + 1)})
    out.var_names = list(GENES)
    out.obs_names = [f"cell{i}" for i in range(len(label_n))]
    out.obs["condition"] = label_n
    out.obs["kind"] = np.array(["T", "B"], object)[np.arange(len(label_n)) % 2]
    return out


def table(
    labels: tuple[str, ...] = LABELS, kinds: tuple[str, ...] = ("T", "B"), cells: int = 4, seed: int = 0
) -> ScreenTable:
    """A table of counts in memory: cells of each label in each cell type."""
    rng = np.random.default_rng(seed)
    pairs = [(label, kind) for label in labels for kind in kinds for _ in range(cells)]
    unit_n, units = build_units([Labels().read(label) for label, _ in pairs], [(kind,) for _, kind in pairs])
    return ScreenTable(
        values=rng.poisson(2.0, (len(pairs), len(GENES))).astype(np.float32),
        genes=GENES,
        unit_n=unit_n,
        units=units,
        raw_n=np.array([label for label, _ in pairs], dtype=object),
        names_n=np.array([f"cell{i}" for i in range(len(pairs))], dtype=object),
        covariates=("cell_type",),
        matched=(True,),
        where="the table",
    )


def opened(cells: ScreenTable, **changes: Any) -> ScreenSource:
    knobs: dict[str, Any] = {
        "content": "", "said": {}, "sets": ScreenSets(size=4, per_batch=3), "cut": ScreenCut(),
        "prepare": ScreenPrepare(),
    }  # fmt: skip
    return ScreenSource("table", cells, **{**knobs, **changes})


def hash_of(text: str) -> int:
    """A number of a text that is the same in every process."""
    return int.from_bytes(text.encode(), "big") % 10007


def saved(path: Path, data: anndata.AnnData) -> Path:
    data.write_h5ad(path)
    return path


def read(path: Path, **changes: Any) -> PerturbH5ad:
    knobs: dict[str, Any] = {
        "asked": Asked(), "sets": ScreenSets(size=4, per_batch=3), "cut": ScreenCut(), "prepare": ScreenPrepare(),
    }  # fmt: skip
    return PerturbH5ad(path=str(path), **{**knobs, **changes})


FORMS = {"dense": np.asarray, "csr": sp.csr_matrix, "csc": sp.csc_matrix}
