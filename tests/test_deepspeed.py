"""`--strategy deepspeed`: processes that hold parts by ZeRO take the steps of one.

What needs DeepSpeed itself is there where it is installed (extra: deepspeed).
"""

from __future__ import annotations

import importlib.util
import math
import sys
import warnings
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import pytest
import torch

from core.cli import main
from core.train.loop import Listener
from core.train.progress import Silent
from core.train.rundir import RunDir
from plugins.strategies.deepspeed import BUCKET, Deepspeed
from small import SMALL
from test_ranks import CASES, agree, close, state, together, train, trainer


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Without DeepSpeed: one sentence that names the extra, exit 2, no file; with one process too."""
    monkeypatch.setitem(sys.modules, "deepspeed", None)
    for devices in ("1", "2"):
        words = ["run", *SMALL, "--strategy=deepspeed", "--devices", devices, "-o", str(tmp_path / "run")]
        assert main(words) == 2
        said = capsys.readouterr().err
        assert "pip install 'cellcore[deepspeed]'" in said
        assert said.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_what_deepspeed_is_told(stage: int) -> None:
    """The loss is left as it is, nothing travels rounded, nothing whole outlives its layer, torch is not patched."""
    told = Deepspeed(stage=stage).configuration(1.5, True, 1000)
    assert told["train_micro_batch_size_per_gpu"] == told["gradient_accumulation_steps"] == 1
    assert told["gradient_clipping"] == 1.5
    assert told["torch_autocast"] == {"enabled": True, "dtype": "bfloat16", "lower_precision_safe_modules": []}
    zero = told["zero_optimization"]
    assert zero["stage"] == stage
    assert zero["reduce_bucket_size"] == 1000
    assert "offload_optimizer" not in zero
    kept = ("stage3_param_persistence_threshold", "stage3_max_reuse_distance", "override_module_apply")
    assert [zero.get(key) for key in kept] == ([0, 0, False] if stage == 3 else [None] * 3)
    plain = Deepspeed(stage=stage, offload=True).configuration(0.0, False, 10 * BUCKET)
    assert plain["zero_optimization"]["offload_optimizer"]["device"] == "cpu"
    assert plain["zero_optimization"]["allgather_bucket_size"] == BUCKET
    assert not plain["torch_autocast"]["enabled"]


@pytest.mark.parametrize("stage", [0, 4])
def test_stages_that_are_none(stage: int) -> None:
    """There are three stages."""
    with pytest.raises(ValueError, match="stage"):
        Deepspeed(stage=stage)


def test_one_process_is_one_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Alone, it needs nothing of DeepSpeed, takes the very steps of `single`, and each takes up the other's run."""
    stand = ModuleType("deepspeed")
    stand.__spec__ = ModuleSpec("deepspeed", None)
    monkeypatch.setitem(sys.modules, "deepspeed", stand)
    alone = train(trainer(), RunDir.beside(tmp_path / "one"), 4)
    told = train(trainer("--strategy=deepspeed"), RunDir.beside(tmp_path / "two"), 2)
    told += train(trainer(), RunDir.beside(tmp_path / "two"), 3)
    told += train(trainer("--strategy=deepspeed(stage=3)"), RunDir.beside(tmp_path / "two"), 4)
    assert told == alone
    one, two = state(tmp_path / "one"), state(tmp_path / "two")
    assert all(torch.equal(one.model[name], two.model[name]) for name in one.model)


if importlib.util.find_spec("deepspeed") is not None:
    # Once here and not in every process: DeepSpeed's first use imports torch's compiler, which warns of itself.
    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
        warnings.simplefilter("ignore")
        patch.setenv("DS_ACCELERATOR", "cpu")
        importlib.import_module("deepspeed.runtime.zero.muon.muon_optimizer")

    STAGES = ["stage=1", "stage=2", "stage=3", "stage=2, offload=true", "stage=3, offload=true"]

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("stage", "case"),
        [(stage, case) for stage in STAGES for case in CASES if "offload" not in stage or case == "ragged"],
    )
    def test_two_processes_take_the_steps_of_one(stage: str, case: str, tmp_path: Path) -> None:
        """Losses, load, gradient norms, weights, averages and moments are those of one process."""
        words = CASES[case]
        alone = train(trainer(*words), RunDir.beside(tmp_path / "one"), 3)

        def work() -> list[dict[str, float]]:
            return train(trainer(*words, f"--strategy=deepspeed({stage})"), RunDir.beside(tmp_path / "two"), 3)

        close(alone, together(work, tmp_path / "told"))
        agree(state(tmp_path / "one"), state(tmp_path / "two"))

    @pytest.mark.slow
    @pytest.mark.parametrize("stage", STAGES)
    def test_a_run_goes_on_elsewhere_and_comes_back(stage: str, tmp_path: Path) -> None:
        """Two processes of ZeRO, one plain one, ZeRO again: the end is that of one undisturbed process."""
        undisturbed = train(trainer("--ffn=moe4x2"), RunDir.beside(tmp_path / "one"), 6)
        run = RunDir.beside(tmp_path / "many")

        def work(strategy: str, to: int) -> Callable[[], list[dict[str, float]]]:
            return lambda: train(trainer("--ffn=moe4x2", f"--strategy={strategy}"), run, to)

        told = together(work(f"deepspeed({stage})", 2), tmp_path / "told")
        told += work("single", 4)()
        told += together(work(f"deepspeed({stage})", 6), tmp_path / "told")
        close(undisturbed, told)
        agree(state(tmp_path / "one"), state(tmp_path / "many"))

    @pytest.mark.slow
    @pytest.mark.parametrize("stage", STAGES[:3])
    def test_a_whole_training_is_that_of_one_process(stage: str, tmp_path: Path) -> None:
        """Validations, the early stop, the best model and what is left for evaluation agree, in bfloat16 too."""
        words = ("--train.steps=12", "--train.validate_every=1", "--train.patience=2", "--train.lr=0.1")
        words += ("--train.checkpoint_every=2", "--train.precision=bf16", "--data.sets.per_batch=2")

        def fit(strategy: str, place: Path) -> dict[str, float]:
            arm, run = trainer(*words, f"--strategy={strategy}"), RunDir.beside(place)
            quiet = Listener(step=lambda *a: None, valid=lambda *a: None, say=lambda text: None)
            assert arm.fit(run, Silent(), quiet, lambda: False)
            arm.alone()
            return arm.validate() | {"step": float(arm.place.step)}

        for name in ("one", "two"):
            (tmp_path / name).mkdir()
        one = fit("single", tmp_path / "one")
        two = together(lambda: fit(f"deepspeed({stage})", tmp_path / "two"), tmp_path / "told")
        assert one["step"] == two["step"] < 12
        assert all(math.isclose(one[k], two[k], rel_tol=5e-2) for k in one)

    @pytest.mark.slow
    def test_gradients_that_are_not_finite(tmp_path: Path) -> None:
        """They end the run in one sentence, on all processes."""

        def work() -> str:
            arm = trainer("--strategy=deepspeed")
            next(p for p in arm.model.parameters() if p.dim() > 1).register_hook(lambda grad: grad * math.inf)
            with pytest.raises(Exception, match="norm of the gradients is not finite") as told:
                arm.step()
            return type(told.value).__name__

        assert together(work, tmp_path / "told") == "RunFailed"
