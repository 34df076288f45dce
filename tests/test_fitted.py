"""What a system fits to the training split is found once, kept with the run, and given to every model of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.errors import UserError
from core.train.fitted import FITTED, read_fitted
from plugins.systems.spatial import Spatial

SMALL = (
    "--data.cells=40", "--data.genes=10", "--data.types=3", "--data.sets.size=20", "--width=8", "--depth=1",
    "--attention.heads=1", "--sampling=2", "--train.warmup=1", "--train.steps=4", "--train.checkpoint_every=1",
)  # fmt: skip


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    """A system that fits the mean of its training cells; what is asked of it, in order."""
    calls: list[tuple[str, Any]] = []

    def fit(self: Spatial, source: Any, streams: Any) -> dict[str, np.ndarray]:
        (unit, *_) = source.split("train", streams).units()
        mean = unit.fields["expression"][0].mean(0).numpy()
        calls.append(("fit", mean))
        return {"mean": mean, "rows": np.arange(6).reshape(2, 3).T}

    def recall(self: Spatial, model: Any, fitted: Any) -> None:
        calls.append(("recall", dict(fitted)))

    monkeypatch.setattr(Spatial, "fit", fit)
    monkeypatch.setattr(Spatial, "recall", recall)
    return calls


def test_a_run_keeps_what_was_fitted(told: list[tuple[str, Any]], core: Callable[..., Any], tmp_path: Path) -> None:
    """Fitted once, before the first step; scoring again reads the file, whose arrays come back as they were."""
    out = tmp_path / "run"
    assert core("run", *SMALL, "-o", str(out), "--no-report").code == 0
    mean = told[0][1]
    assert [what for what, _ in told].count("fit") == 1
    assert told[1][0] == "recall"
    kept = read_fitted(out)
    assert kept is not None
    np.testing.assert_array_equal(kept["mean"], mean)
    np.testing.assert_array_equal(kept["rows"], [[0, 3], [1, 4], [2, 5]])
    told.clear()
    assert core("evaluate", str(out)).code == 0
    assert [what for what, _ in told] == ["recall"]
    np.testing.assert_array_equal(told[0][1]["mean"], mean)


def test_a_damaged_file_is_told(tmp_path: Path) -> None:
    """No file is nothing fitted; one that cannot be read is named, with what to do."""
    assert read_fitted(tmp_path) is None
    (tmp_path / FITTED).write_bytes(b"\x08\x00\x00")
    with pytest.raises(UserError, match=r"fitted\.safetensors cannot be read: .*--force"):
        read_fitted(tmp_path)
