"""The system `perturb` on a real screen, from file to report."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.report.store import load_evaluation
from plugins.systems.perturb.baselines import TRIVIAL
from realdata import realdata

WORDS = [
    "--system=perturb", "--extractor=pca", "--extractor.k=4", "--data.prepare.genes=120", "--data.cut.by=kfold",
    "--data.sets.size=16", "--data.sets.per_batch=4", "--width=16", "--depth=1", "--attention.heads=2",
    "--backbone.frame.heads=2", "--backbone.frame.neighbours=4", "--backbone.frame.latent_bottleneck=8",
    "--sampling=4", "--latent_steps=3", "--train.steps=60", "--train.warmup=5",
]  # fmt: skip
ARMS = {"model", "ceiling", "control mean", "control resample", "perturbed mean", "matching mean", "additive", "ridge",
        "bilinear ridge", "nearest seen perturbation"}  # fmt: skip


@pytest.mark.realdata
def test_norman_from_file_to_report(core: Callable[..., Any], tmp_path: Path) -> None:
    """Trained on some conditions of Norman et al. 2019, judged on others: nothing of the report is missing."""
    path, run = realdata("perturbation", "norman2019_train.h5ad"), tmp_path / "run"
    said = core("run", *WORDS, f"--data={path}", "-q", "-o", str(run))
    assert said.code == 0, said.err
    found = load_evaluation(run)
    held = {unit for s in found.scores if s.arm == "model" for unit in s.units}
    arms = {s.arm for s in found.scores}
    metrics = {s.metric for s in found.scores if s.arm == "model"}
    assert len(held) > 3
    assert arms >= ARMS
    assert {*TRIVIAL} <= arms
    assert metrics >= {"pearson_delta", "centroid_accuracy", "mse", "zero_rate_gap", "variance_ratio", "edistance"}
    assert all(np.isfinite(s.value) for s in found.scores)
    by_metric = {s.metric: s.value for s in found.scores if s.arm == "ceiling"}
    assert by_metric.keys() == metrics
    assert by_metric["pearson_delta"] > 0.5
    # 60 steps beat no baseline: the report says so by itself, and what a cell costs, and which sorts of conditions.
    notes = " ".join(found.notes)
    assert "By pearson_delta the prediction is" in notes
    assert "evaluations of the field" in notes
    assert re.search(r"Pearson of effects by category: .*seen.* \(\d+ conditions\): model -?\d", notes)
    html = (run / "report.html").read_text()
    for title in (
        "Each held-out condition",
        "Effects, gene by gene",
        "The genes that change most in",
        "Predicted and real cells in two dimensions",
        "the model in each test unit",
        "Learning curves",
    ):
        assert title in html, title
    table = html.partition("the model in each test unit")[2].partition("</table>")[0]
    assert all(f'<th scope="row">{name}</th>' in table for name in held)
    assert {p.name for p in (run / "figures").glob("*.svg")} >= {
        "conditions.svg",
        "effects.svg",
        "genes.svg",
        "cells.svg",
    }
    facts = json.loads((run / "run.json").read_text())
    assert facts["system"] == "perturb" if "system" in facts else True
    losses = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert {key for line in losses for key in line} >= {"train/loss/expression/mse", "train/loss/latent/mse"}
