"""A run of system `perturb` that takes a second."""

from __future__ import annotations

from pathlib import Path

from core.cli import main
from screens import adata, saved

SMALL = (
    "--system=perturb", "--data.sets.size=6", "--data.sets.per_batch=3", "--width=8", "--depth=1",
    "--attention.heads=2", "--sampling=2", "--latent_steps=2", "--extractor.k=2", "--backbone.frame.heads=2",
    "--backbone.frame.neighbours=3", "--backbone.frame.latent_bottleneck=4", "--train.steps=3", "--train.warmup=1",
    "--metrics=pearson_delta,mse", "--no-report", "-q",
)  # fmt: skip


def exported(folder: Path) -> None:
    """A screen `train.h5ad`, the run `run` trained on it, and its exported model `model`."""
    saved(folder / "train.h5ad", adata())
    assert main(["run", *SMALL, f"--data={folder}/train.h5ad", "-o", str(folder / "run")]) == 0
    assert main(["export", str(folder / "run"), "-o", str(folder / "model")]) == 0
