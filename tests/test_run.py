"""`core run` from words to report, on few, small cells."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from core.cli import main
from core.cli.choose import resolve_run
from core.errors import UserError
from core.identity import digest, run_identity
from core.report.store import load_evaluation
from core.train.checkpoint import latest, load
from small import SMALL, core

WORDS = (*SMALL, "--attention=gated_headwise", "--ffn=moe4x2", "--train.steps=6", "-q")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("run") / "run"
    assert main(["run", *WORDS, "-o", str(path)]) == 0
    return path


def test_a_finished_run_holds_everything_the_readme_names(run: Path) -> None:
    """All files are there, none is temporary, and `run.json` says done."""
    names = {p.name for p in run.iterdir()}
    assert {
        "report.html", "config.toml", "parts.toml", "metrics.jsonl", "evaluation.json", "units.parquet", "run.json",
        "log.txt", "figures", "checkpoints", "gates.json",
    } <= names  # fmt: skip
    assert not [p for p in run.rglob("*") if p.name.endswith(".tmp")]
    record = json.loads((run / "run.json").read_text())
    assert record["status"] == "done"
    assert record["steps"] == 6
    assert record["environment"]["command"][:2] == ["core", "run"]
    assert {p.stem for p in (run / "figures").iterdir()} >= {
        "tissue",
        "learning_curves",
        "expert_load",
        "gates",
        "genes",
    }


def test_the_report_is_one_file_without_network_or_scripts_from_elsewhere(run: Path) -> None:
    """No address to load anything from, every picture inlined, table and verdict inside."""
    html = (run / "report.html").read_text()
    assert not re.search(r"""(?:src|href)\s*=\s*["']?(?!data:|#)[a-z/]""", html)
    assert html.count("data:image/svg+xml;base64,") >= 5
    assert "mean position" in html
    assert "test holds out whole: section3" in html
    assert "neighbours of valid cells are in train" in html
    assert "gated_headwise" in html


def test_model_and_baselines_are_judged_on_the_same_held_out_units(run: Path) -> None:
    """Every arm has every metric of its task for every test section; units.parquet says the same as evaluation.json."""
    evaluation = load_evaluation(run)
    table = pq.read_table(run / "units.parquet").to_pylist()
    assert {row["unit"] for row in table} == {"section3"}
    for task in {s.task for s in evaluation.scores}:
        scores = [s for s in evaluation.scores if s.task == task]
        arms, metrics = {s.arm for s in scores}, {s.metric for s in scores}
        assert len(scores) == len(arms) * len(metrics)
        alone = {"model", "training cells, unpaired"} if task == "joint generation" else set()
        assert (alone or {"model", "ridge", "nearest cell", "ceiling"}) <= arms
    by_row = {(r["task"], r["arm"], r["metric"], r["unit"]): r["value"] for r in table}
    assert all(by_row[s.task, s.arm, s.metric, u] == v for s in evaluation.scores for u, v in s.units.items())


def test_the_stored_configuration_repeats_the_run(run: Path) -> None:
    """config.toml, read as a file, resolves to the same identity, and every value names its origin."""
    stored = resolve_run([str(run / "config.toml")], [])
    record = json.loads((run / "run.json").read_text())
    identity = run_identity(stored, record["data"]["fingerprint"], "cpu")
    assert digest(identity) == record["digest"]
    text = (run / "config.toml").read_text()
    values = [line for line in text.splitlines() if " = " in line]
    assert all("  # " in line for line in values)
    assert any("top_k = 2" in line and "name moe4x2" in line for line in values)
    assert tomllib.loads((run / "parts.toml").read_text())["attention"]["name"] == "cellcore/gated_headwise"


def test_checkpoints_load_without_running_code(run: Path) -> None:
    """Weights are safetensors, the rest loads with weights_only=True, and no value of the config hides in it."""
    newest = max((run / "checkpoints").iterdir())
    state = torch.load(newest / "trainer.pt", weights_only=True)
    assert set(state) == {"optimiser", "place", "warned"}
    weights, average = load_file(newest / "model.safetensors"), load_file(newest / "average.safetensors")
    assert weights.keys() == average.keys()
    assert all(torch.isfinite(v).all() for v in weights.values())


def test_the_same_command_does_not_train_twice(run: Path, capsys: pytest.CaptureFixture) -> None:
    """A finished run is printed again, its files untouched; --force sets it aside and trains."""
    before = {p: p.stat().st_mtime_ns for p in run.rglob("*") if p.is_file() and p.name not in ("log.txt", "lock")}
    assert main(["run", *WORDS, "-o", str(run)]) == 0
    assert "ridge" in capsys.readouterr().out
    assert before == {p: p.stat().st_mtime_ns for p in before}


def test_force_sets_an_earlier_run_aside(tmp_path: Path) -> None:
    """The old directory is kept whole under another name."""
    words = ["run", *SMALL, "--train.steps=2", "--no-report", "-q", "-o", str(tmp_path / "run")]
    assert main(words) == 0
    assert main([*words, "--force"]) == 0
    assert json.loads((tmp_path / "run.old-1" / "run.json").read_text())["status"] == "done"
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "done"


def test_the_report_can_be_drawn_anew_and_is_the_same(run: Path, capsys: pytest.CaptureFixture) -> None:
    """`core report` needs only the directory."""
    before = (run / "report.html").read_text()
    (run / "report.html").unlink()
    assert main(["report", str(run)]) == 0
    assert (run / "report.html").read_text() == before
    assert "ridge" in capsys.readouterr().out


def test_dry_run_counts_without_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Parameters are those of the real model; nothing is written."""
    monkeypatch.chdir(tmp_path)
    assert main(["run", *WORDS, "--dry-run"]) == 0
    told = capsys.readouterr().out
    run = resolve_run([], WORDS[:-1]).root
    model = run.system.build(run.data.open().describe())
    assert f"parameters  {sum(p.numel() for p in model.parameters()):,} " in told
    assert "name moe4x2" in told
    assert list(tmp_path.iterdir()) == []


def test_flops_of_a_mixture_follow_the_chosen_experts() -> None:
    """moe4x1 costs less than moe4x2, which costs less than moe4x4; all have the same parameters."""
    from core.train.session import cost_of, open_run

    costs = [cost_of(open_run(resolve_run([], [*SMALL, f"--ffn=moe4x{k}"]))) for k in (1, 2, 4)]
    assert costs[0].flops < costs[1].flops < costs[2].flops
    assert len({c.parameters for c in costs}) == 1


@pytest.mark.parametrize(
    "words",
    [
        ("--attention=linear", "--ffn=dense"),
        ("--attention=gated_elementwise", "--train.precision=bf16"),
        ("--recipe=rectified_flow",),
        ("--time=shared", "--position_path=cond_ot", "--solver=euler"),
        ("--data.dims=3", "--rotate=true", "--position_loss=distance_mse"),
        ("--train.ema=0", "--train.accumulate=2", "--train.clip=0"),
        ("--data.sections=1", "--metrics=rssd,contact_f1(percentile=0.01),expression_mse"),
    ],
    ids=lambda words: " ".join(words),
)  # fmt: skip
def test_other_pieces_train_evaluate_and_report(words: tuple[str, ...], tmp_path: Path) -> None:
    """Any choice of registered pieces goes from words to a report with finite scores."""
    path = tmp_path / "run"
    assert main(["run", *SMALL, "--train.steps=3", "-q", "-o", str(path), *words]) == 0
    evaluation = load_evaluation(path)
    assert all(np.isfinite(s.value) for s in evaluation.scores)
    assert (path / "report.html").stat().st_size > 10_000


def test_early_stopping_and_epochs(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Patience ends a run that no longer improves; epochs give the number of steps."""
    words = ["run", *SMALL, "-o", str(tmp_path / "a"), "--train.steps=50", "--train.validate_every=1"]
    assert main([*words, "--train.patience=1", "--train.lr=1e-9", "--train.ema=0"]) == 0
    record = json.loads((tmp_path / "a" / "run.json").read_text())
    assert record["steps"] < 50
    assert "stopped early" in (tmp_path / "a" / "log.txt").read_text()
    assert main(["run", *SMALL, "-o", str(tmp_path / "b"), "--train.epochs=2", "--no-report", "-q"]) == 0
    steps = json.loads((tmp_path / "b" / "run.json").read_text())["steps"]
    card = resolve_run([], SMALL).root.data.open().describe()
    sets = 2 * -(-card.splits["train"] // 2 // card.sizes["set_size"])
    assert steps == 2 * -(-sets // card.sizes["sets_per_batch"])


def test_an_early_stop_evaluates_the_best_weights(tmp_path: Path) -> None:
    """A run that gets worse is judged as it stood at its best validation, also when it is taken up anew."""
    words = ["run", *(w for w in SMALL if "warmup" not in w), "--no-report", "-q", "--train.warmup=0", "--train.ema=0"]
    words += ["--train.validate_every=2", "--train.lr=0.1", "--train.min_lr=1", "--train.clip=0"]
    assert main([*words, "--train.steps=19", "--train.patience=1", "-o", str(tmp_path / "long")]) == 0
    state = load(latest(tmp_path / "long")[1])
    seen = [json.loads(line) for line in (tmp_path / "long" / "metrics.jsonl").read_text().splitlines()]
    values = [line["valid/loss"] for line in seen if "valid/loss" in line]
    best = values.index(min(values))
    assert state.trainer["place"]["best"] == values[best]
    assert best == len(values) - 2
    assert main([*words, f"--train.steps={2 * best + 2}", "-o", str(tmp_path / "short")]) == 0
    short, long = (load_evaluation(tmp_path / name) for name in ("short", "long"))
    assert [score.value for score in long.scores] == [score.value for score in short.scores]
    (tmp_path / "long" / "evaluation.json").unlink()
    record = json.loads((tmp_path / "long" / "run.json").read_text()) | {"status": "running"}
    (tmp_path / "long" / "run.json").write_text(json.dumps(record))
    assert main([*words, "--train.steps=19", "--train.patience=1", "-o", str(tmp_path / "long")]) == 0
    assert [score.value for score in load_evaluation(tmp_path / "long").scores] == [s.value for s in short.scores]


def test_validation_leaves_out_what_layers_ask_for(tmp_path: Path) -> None:
    """The balance of a router is trained for, and no part of the validation loss that arms are compared on."""
    words = ["run", *SMALL, "--no-report", "-q", "--train.steps=2", "--ffn=moe4x2", "-o", str(tmp_path / "run")]
    assert main([*words, "--train.log_every=1"]) == 0
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    for split, whole in (("train", True), ("valid", False)):
        line = next(line for line in reversed(lines) if f"{split}/loss" in line)
        terms = {k: v for k, v in line.items() if k.startswith(f"{split}/loss/")}
        asked = [v for k, v in terms.items() if whole or "balance" not in k]
        assert any("balance" in k for k in terms)
        assert line[f"{split}/loss"] == pytest.approx(sum(asked), rel=1e-5)


def test_steps_and_epochs_contradict() -> None:
    """Two budgets are an error that names both places."""
    with pytest.raises(
        UserError, match=r"train\.steps = 5 \(CLI --train\.steps\) and train\.epochs = 2 \(CLI --train\.epochs\)"
    ):
        resolve_run([], ["--train.steps=5", "--train.epochs=2"])


def test_the_higher_layer_says_how_long(tmp_path: Path) -> None:
    """Steps on the command line beat epochs of a file, and the other way round."""
    file = tmp_path / "long.toml"
    file.write_text("train.epochs = 3\n")
    found = resolve_run([str(file)], ["--train.steps=5"])
    assert (found.root.train.steps, found.root.train.epochs) == (5, 0)
    assert "train.steps decides (CLI --train.steps)" in found.settings["train.epochs"].origin
    file.write_text("train.steps = 3\n")
    found = resolve_run([str(file)], ["--train.epochs=2"])
    assert (found.root.train.steps, found.root.train.epochs) == (0, 2)


@pytest.mark.slow
def test_seeds_run_in_processes_of_their_own(run: Path, tmp_path: Path) -> None:
    """--seeds N trains N runs, prints mean and spread, and each run equals the one trained alone."""
    done = core("run", *WORDS, "--seeds", "2", "-o", "many", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "±" in done.stdout
    one, two = (load_evaluation(path) for path in (tmp_path / "many" / "seed-0", run))
    assert [s.value for s in one.scores] == [s.value for s in two.scores]


@pytest.mark.slow
def test_a_seed_that_fails_is_told_and_the_others_stand(tmp_path: Path) -> None:
    """A directory in the way of seed 1 costs seed 1 only; the mistake's exit status is the command's."""
    (tmp_path / "many").mkdir()
    (tmp_path / "many" / "seed-1").write_text("in the way")
    done = core("run", *WORDS, "--seeds", "2", "-o", "many", cwd=tmp_path)
    assert done.returncode == 2
    assert "seed 1: exit 2" in done.stderr
    assert json.loads((tmp_path / "many" / "seed-0" / "run.json").read_text())["status"] == "done"


def test_a_run_without_a_report_can_be_drawn_later(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """`--no-report` leaves the page out and keeps what it needs: the same page, from the same command otherwise."""
    path = tmp_path / "run"
    assert main(["run", *WORDS, "--no-report", "-o", str(path)]) == 0
    assert "report " not in capsys.readouterr().out
    assert not (path / "report.html").exists()
    assert main(["report", str(path)]) == 0
    assert {p.name for p in (path / "figures").iterdir()} == {p.name for p in (run / "figures").iterdir()}
