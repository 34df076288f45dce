"""Models that no memory holds are refused before any of it is asked for."""

from __future__ import annotations

from pathlib import Path

import attrs
import pytest
import torch

from core.cli import main
from core.cli.choose import resolve_run
from core.errors import UserError
from core.train.cost import BYTES, Cost, memory_of, refuse_too_large
from core.train.session import cost_of, open_run
from small import SMALL


@pytest.mark.parametrize(
    ("ffn", "says"),
    [
        ("moe999999999x2", "GiB for weights, gradients and optimiser, and this machine has"),
        ("moe999999999999999999x2", "a model of this size cannot be made"),
        ("dense(ratio=1e12)", "choose smaller pieces, most of it (100%) is blocks"),
    ],
)
def test_an_absurd_size_is_one_sentence(
    ffn: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """`core run` ends with status 2 and the reason, and leaves nothing behind."""
    monkeypatch.chdir(tmp_path)
    assert main(["run", *SMALL, "--ffn", ffn]) == 2
    told = capsys.readouterr().err.strip()
    assert says in told
    assert "\n" not in told
    assert not list(tmp_path.iterdir())


def test_the_bound_is_the_memory_of_the_machine() -> None:
    """What just fits passes, and one parameter more does not."""
    device = torch.device("cpu")
    present = memory_of(device)
    assert present is not None
    fits = Cost(parameters=present // BYTES, flops=1, by_part={"blocks": present // BYTES}, active=1)
    refuse_too_large(fits, device)
    with pytest.raises(UserError, match="cannot be made"):
        refuse_too_large(attrs.evolve(fits, parameters=fits.parameters + 1), device)


def test_an_absurd_size_can_still_be_counted() -> None:
    """Parameters of a billion experts are those of the closed form, in every layer."""
    run = resolve_run([], [*SMALL, "--ffn=moe999999999x2"])
    small = cost_of(open_run(resolve_run([], [*SMALL, "--ffn=moe2x2"])))
    large, ffn = cost_of(open_run(run)), run.root.system.ffn
    grown = ffn.params(16) - attrs.evolve(ffn, experts=2).params(16)
    assert large.parameters - small.parameters == run.root.system.depth * grown
