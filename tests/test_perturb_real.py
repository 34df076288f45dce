"""The system `perturb` on a real screen, from file to report."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.report.store import load_evaluation
from plugins.systems.perturb.baselines import TRIVIAL
from realdata import realdata

WORDS = [
    "--system=perturb", "--extractor=pca", "--extractor.k=4", "--data.prepare.genes=60", "--data.cut.by=kfold",
    "--data.sets.size=16", "--data.sets.per_batch=4", "--width=16", "--depth=1", "--attention.heads=2",
    "--backbone.frame.heads=2", "--backbone.frame.neighbours=4", "--backbone.frame.latent_bottleneck=8",
    "--sampling=2", "--latent_steps=2", "--train.steps=20", "--train.warmup=2",
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
    # What 20 steps cannot do the report says by itself; and what a cell costs.
    notes = " ".join(found.notes)
    assert "By pearson_delta the prediction is" in notes
    assert "evaluations of the field" in notes
    assert {*found.groups} >= held
    html = (run / "report.html").read_text()
    for title in (
        "Each held-out condition", "Effects, gene by gene", "The genes that change most",
        "Predicted and real cells in two dimensions", "Learning curves", "Response, by what is tested",
    ):  # fmt: skip
        assert title in html, title
    table = html.partition("the model on each of")[2].partition("</table>")[0]
    assert all(name in table for name in held)
    drawn = {p.stem for p in (run / "figures").glob("*.svg")}
    assert drawn >= {"conditions", "effects", "genes", "cells", "learning_curves"}
    losses = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert {key for line in losses for key in line} >= {"train/loss/expression/mse", "train/loss/latent/mse"}
