"""Parity with the installed cell-eval (extra `eval`) on random screens; its figures for one screen always run."""

from __future__ import annotations

import numpy as np
import pytest

from core.config import resolve_part
from core.kinds.comparison import Truth
from tests.made_screens import GOLDEN

cell_eval = pytest.importorskip("cell_eval", reason="cell-eval is not installed: pip install 'cellcore[eval]'")


def screen(seed: int) -> tuple[tuple[str, ...], dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Genes, real and predicted cells by condition; `control` is the same on both sides."""
    rng = np.random.default_rng(seed)
    genes = tuple(f"G{i}" for i in range(150))
    base = rng.gamma(1.5, 1.0, len(genes))

    def cells(rate: np.ndarray, count: int) -> np.ndarray:
        return np.log1p(rng.poisson(rate * rng.lognormal(0, 0.3, (count, 1)))).astype(np.float32)

    real = {"control": cells(base, 90)}
    predicted = {"control": real["control"]}
    for i, name in enumerate([*genes[1:8], "G1+G2"]):
        effect = np.exp(rng.normal(0, 0.25 + 0.35 * i, len(genes)) * (rng.random(len(genes)) < 0.15 + 0.1 * i))
        real[name] = cells(base * effect, 30)
        predicted[name] = cells(base * effect * np.exp(rng.normal(0, 0.3, len(genes))), 30)
    return genes, real, predicted


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", range(3))
def test_parity(seed: int, tmp_path) -> None:
    """All 27 metrics that are formulas agree to 1e-6 in every condition in which cell-eval has a number."""
    import anndata
    import pandas as pd

    genes, real, predicted = screen(seed)

    def table(side: dict[str, np.ndarray]):
        obs = pd.DataFrame({"target": [name for name in sorted(side) for _ in side[name]]})
        obs.index = obs.index.astype(str)
        return anndata.AnnData(np.concatenate([side[n] for n in sorted(side)]), obs, pd.DataFrame(index=[*genes]))

    judge = cell_eval.MetricsEvaluator(
        adata_pred=table(predicted), adata_real=table(real), control_pert="control", pert_col="target", num_threads=1,
        outdir=str(tmp_path),
    )  # fmt: skip
    rows = judge.compute(skip_metrics=["clustering_agreement"], write_csv=False, break_on_error=True)[0].to_dicts()
    reference = real.pop("control")
    predicted.pop("control")
    comparison = Truth(groups=real, reference=reference, features=genes).against(predicted)
    for name in GOLDEN:
        found = resolve_part("metric", name.lower(), {}).score(comparison)
        for row in rows:
            value = found.groups.get(row["perturbation"]) if found.groups else found.value
            wanted = None if row[name] is None or row[name] != row[name] else row[name]
            assert (value is None) == (wanted is None), (name, row["perturbation"])
            assert value is None or value == pytest.approx(wanted, abs=1e-6), (name, row["perturbation"])
