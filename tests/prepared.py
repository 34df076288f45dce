"""Small prepared data sets for tests."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import scipy.sparse as sp

from core.listed import Listed
from plugins.data.division import Ratios
from plugins.data.stage1 import Stage1, stage1
from plugins.data.stage2 import Stage2, stage2
from plugins.data.transform import Transform

Change = Callable[[anndata.AnnData], Any]


def cells(count: int = 90, genes: int = 8, sections: int = 3, seed: int = 0) -> anndata.AnnData:
    """Counts with positions, sections and types, some of them missing."""
    rng = np.random.default_rng(seed)
    data = anndata.AnnData(sp.csr_matrix(rng.poisson(2.0, (count, genes)).astype(np.float32)))
    data.obs_names = [f"c{i}" for i in range(count)]
    data.var_names = [f"Gene{i}" for i in range(genes)]
    data.obs["section"] = pd.Categorical([f"s{i * sections // count}" for i in range(count)])
    data.obs["cell_type"] = pd.Categorical(np.array(["T", None, "B"], object)[np.arange(count) % 3])
    data.obsm["spatial"] = rng.uniform(0, 500, (count, 2))
    return data


def save(path: Path, data: anndata.AnnData) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data.write_h5ad(path)
    return path


def stage(out: Path, *inputs: Path, told: list[str] | None = None, **flags: Any) -> Listed:
    """Stage 1 of some files; flags of either class by name."""
    transform = {k: flags.pop(k) for k in ("normalize", "target_sum", "log1p", "scale") if k in flags}
    lines = [] if told is None else told
    return stage1([*map(str, inputs)], Stage1(out=str(out), **flags), Transform(**transform), lines.append)


def merge(out: Path, *folders: Path, told: list[str] | None = None, **flags: Any) -> Listed:
    """Stage 2 of some folders; flags of either class by name."""
    own = {k: flags.pop(k) for k in ("panel", "shard") if k in flags}
    lines = [] if told is None else told
    return stage2([*map(str, folders)], Stage2(out=str(out), **own), Ratios(**flags), lines.append)
