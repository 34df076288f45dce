"""Numbers that move while a model trains."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from core.cli import main
from core.train.schedule import Scheduled, advance, moved
from small import SMALL, same

shares = st.floats(0.0, 1.0)


@settings(deadline=None, max_examples=30)
@given(start=st.floats(-5, 5), end=st.floats(-5, 5), share=st.floats(0.05, 1.0), one=shares, other=shares)
@pytest.mark.parametrize("shape", ["linear", "cosine"])
def test_a_moved_number_goes_from_start_to_end_and_never_back(
    shape: str, start: float, end: float, share: float, one: float, other: float
) -> None:
    """It begins at `start`, is at `end` from `share` on, and in between depends monotonically on progress alone."""

    def at(progress: float) -> float:
        return float(moved(start, end, share, shape, torch.tensor(progress, dtype=torch.float64)))

    assert at(0.0) == pytest.approx(start)
    assert at(max(one, share)) == pytest.approx(end)
    early, late = sorted((one, other))
    assert abs(at(late) - start) >= abs(at(early) - start) - 1e-12
    assert min(start, end) - 1e-12 <= at(one) <= max(start, end) + 1e-12


def test_progress_reaches_every_scheduled_module_and_travels_with_the_state() -> None:
    """`advance` finds modules at any depth; the state of one model puts another where it stood."""
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ModuleList([Scheduled(), Scheduled()]))
    advance(model, 0.25)
    assert [float(value) for name, value in model.state_dict().items() if "progress" in name] == [0.25, 0.25]
    other = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ModuleList([Scheduled(), Scheduled()]))
    other.load_state_dict(model.state_dict())
    assert float(other[1][0].progress) == 0.25


@pytest.mark.parametrize("progress", [-0.1, 1.1, float("nan")])
def test_progress_is_a_share(progress: float) -> None:
    """Anything outside [0, 1] is refused."""
    with pytest.raises(ValueError, match="from 0 to 1"):
        Scheduled().advance(progress)


def test_a_resumed_run_takes_up_its_schedules(tmp_path: Path) -> None:
    """A run that goes on from its middle ends with the bytes of one that was never stopped, annealing included."""
    words = ["run", *SMALL, "--sparsifier=entmax1.5(mode=annealed)", "--sparsifier.temperature.start=2.0", "-q"]
    words += ["--train.steps=6", "--train.checkpoint_every=3", "--train.keep=2", "-o"]
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    assert main([*words, str(whole)]) == 0
    shutil.copytree(whole, resumed)
    last = resumed / "checkpoints" / "step-00000006"
    progress = [v for k, v in load_file(last / "model.safetensors").items() if k.endswith("progress")]
    assert len(progress) == 4
    assert all(float(value) == 1.0 for value in progress)
    shutil.rmtree(last)
    record = json.loads((resumed / "run.json").read_text())
    (resumed / "run.json").write_text(json.dumps(record | {"status": "running"}))
    assert main([*words, str(resumed)]) == 0
    assert list(same(whole, resumed)) == []
