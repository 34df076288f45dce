"""Gates while a model trains: statistics in the curves, warnings, and losses of their own."""

from __future__ import annotations

import html
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import attrs
import pytest
import torch
from torch import nn

from core.cli import main
from core.cli.choose import resolve_run
from core.kinds import Attention, Gate
from core.kinds.mask import Layout
from core.nn.auxiliary import listen, tell
from core.testing.draws import randn, started
from core.train.loop import Listener, Trainer
from core.train.probe import MEAN, SATURATED, SPREAD, judge_gates, unhealthy, watch_gates
from core.train.rundir import RunDir
from plugins.attention.differential import Differential
from plugins.attention.linear import Linear
from plugins.attention.pairwise import Pairwise
from plugins.gates.dual import Dual
from plugins.gates.headwise import Headwise
from plugins.gates.sigmoid import Sigmoid
from plugins.kernels.auto import Auto
from plugins.masks.full import Full
from plugins.positions.none import NoPosition
from plugins.sparsifiers.softmax import Softmax
from plugins.trackers.jsonl import Jsonl
from small import SMALL

UNTRAINED = (word for word in SMALL if not word.startswith("--train."))
GATED = (*UNTRAINED, "--attention=gated_headwise", "--train.steps=4", "--train.warmup=0")


def trainer(*words: str) -> Trainer:
    run = resolve_run([], [*GATED, *words]).root
    return Trainer(
        system=run.system,
        source=run.data.open(),
        settings=run.train,
        strategy=run.strategy,
        device=torch.device("cpu"),
        seed=run.seed,
    )


def steps(arm: Trainer, count: int) -> Iterator[dict[str, float]]:
    for _ in range(count):
        yield arm.step()


def test_statistics_stand_in_logged_steps_and_change_no_number() -> None:
    """A step that is logged says mean, std and saturated share of each gate; losses and weights are the same bits."""
    words = ("--gate.spectral=penalty", "--gate.spectral_bound=0.1")
    often, seldom = trainer(*words, "--train.log_every=2"), trainer(*words, "--train.log_every=100")
    for i, (one, other) in enumerate(zip(steps(often, 3), steps(seldom, 3), strict=True)):
        gates = {key for key in one if key.startswith("stat/gate/")}
        named = {f"stat/gate/blocks.{b}.attention.gate/{s}" for b in (0, 1) for s in ("mean", "std", "saturated")}
        assert gates == (named if i == 1 else set())
        assert {k: v for k, v in one.items() if k not in gates} == other
    for one, other in zip(often.model.parameters(), seldom.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_statistics_are_those_of_the_scores() -> None:
    """Mean, std and saturated share are what the scores say; of a sample they are those of evenly spread tokens."""
    gate = started(Headwise(bias=1.0).build(6, 3, 4), 0, torch.float32)
    x_BQD, out_BHQV = 4 * randn(0, 2, 50, 6, dtype=torch.float32), randn(1, 2, 3, 50, 4, dtype=torch.float32)
    for most, seen in ((None, x_BQD), (100, x_BQD), (10, x_BQD.flatten(0, 1)[None, ::10])):
        with watch_gates(gate, most) as found:
            gate(out_BHQV, x_BQD)
        scores = gate.scores(seen).detach().double()
        assert found[""]["mean"] == pytest.approx(float(scores.mean()))
        assert found[""]["std"] == pytest.approx(float(scores.std(correction=0)))
        assert found[""]["saturated"] == pytest.approx(float(((scores < 0.05) | (scores > 0.95)).double().mean()))


def test_a_gate_made_of_gates_is_told_by_the_inner_one() -> None:
    """The scores of `dual` always have mean 1/2, so those of its inner gate are watched."""
    model = nn.ModuleDict({"gate": started(Dual(inner=Sigmoid(bias=2.0)).build(6, 4, 3), 0, torch.float32)})
    with watch_gates(model) as found:
        model["gate"](torch.ones(2, 4, 5, 3), torch.zeros(2, 5, 6))
    assert found.keys() == {"gate.inner"}
    assert found["gate.inner"]["mean"] == pytest.approx(torch.sigmoid(torch.tensor(2.0)).item())


@pytest.mark.parametrize(
    ("mean", "std", "saturated", "said"),
    [
        (0.019, 0.1, 0.5, "shuts nearly everything out"),
        (0.981, 0.1, 0.5, "lets nearly everything pass"),
        (0.5, 0.4, 0.96, "96% of its scores are below 0.05 or above 0.95"),
        (0.5, 0.0009, 0.0, "all its scores are alike"),
        (0.12, 0.15, 0.6, None),
        (0.5, 0.001, 0.95, None),
    ],
)
def test_the_healthy_range(mean: float, std: float, saturated: float, said: str | None) -> None:
    """Each bound of the documented range is judged, and the sparse gates of a good model are healthy."""
    assert (MEAN, SPREAD, SATURATED) == ((0.02, 0.98), 0.001, 0.95)
    found = unhealthy(mean, std, saturated)
    assert found is None if said is None else said in str(found)


@pytest.mark.parametrize(("total", "first"), [(4, None), (49, None), (50, 50), (400, 50), (1000, 100)])
def test_a_gate_is_judged_once_it_has_settled(total: int, first: int | None) -> None:
    """Neither the first tenth of the training nor its first 50 steps are judged; the first that is names a gate."""
    shut = {"stat/gate/a/mean": 0.0, "stat/gate/a/std": 0.0, "stat/gate/a/saturated": 1.0}
    lines = [{"step": step, "train/loss": 1.0, **shut} for step in (1, 2, 49, 50, 99, 100, 101) if step <= total]
    found = judge_gates(lines, total)
    assert [s.partition(": ")[0] for s in found.values()] == ([] if first is None else [f"gate a, step {first}"])


def test_a_gate_that_starts_constant_is_not_warned_of_in_a_short_run(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Weights that start at zero make a constant by design; a run too short to judge them says that it did not."""
    words = ("--gate.weights=zero", "--train.log_every=1", "-o", str(tmp_path / "run"))
    assert main(["run", *GATED, *words]) == 0
    assert "warning" not in capsys.readouterr().err
    page = html.unescape((tmp_path / "run" / "report.html").read_text())
    assert "Gates are judged from step 50 on, and the training has 4." in page


def gated(cls: Callable[..., Attention], gate: Gate) -> nn.Module:
    """An attention that holds the gate, all else at its defaults."""
    slots = {"mask": Full(), "sparsifier": Softmax(), "position": NoPosition()}
    slots |= {"anchor": None, "kernel": Auto()}
    own = {field.name for field in attrs.fields(cls)}
    plugin = cls(heads=2, gate=gate, **{name: piece for name, piece in slots.items() if name in own})
    return started(plugin.build(8), 0, torch.float32)


@pytest.mark.parametrize("content", [float("nan"), 1e30])
@pytest.mark.parametrize("most", [None, 4])
@pytest.mark.parametrize("gate", [Headwise(), Dual(inner=Sigmoid(per="channel"))], ids=["headwise", "dual"])
@pytest.mark.parametrize("cls", [Pairwise, Linear, Differential])
def test_padding_is_not_counted(cls: Callable[..., Attention], gate: Gate, most: int | None, content: float) -> None:
    """Statistics of a padded batch, whatever the padding holds, are those of its real tokens alone."""
    layer = gated(cls, gate)
    x_BQD = randn(1, 2, 12, 8, dtype=torch.float32)
    real_BQ = torch.arange(12) < torch.tensor([[5], [7]])
    planted = x_BQD.masked_fill(~real_BQ[..., None], content)
    context_BSD = randn(2, 2, 3, 8, dtype=torch.float32)
    real_BS = torch.ones(2, 3, dtype=torch.bool)
    with watch_gates(layer, most) as padded:
        layer(planted, real_BS=real_BQ)
        layer(planted, context_BSD=context_BSD, real_BS=real_BS, layout=Layout(real_BQ=real_BQ))
    with watch_gates(layer, most) as alone:
        layer(x_BQD[real_BQ][None])
        layer(x_BQD[real_BQ][None], context_BSD=context_BSD[:1])
    assert padded.keys() == alone.keys() != set()
    for name, numbers in alone.items():
        assert padded[name]["counts"] == numbers["counts"]
        for key in ("mean", "std", "saturated"):
            assert padded[name][key] == pytest.approx(numbers[key])


def test_padding_of_one_call_is_forgotten_before_the_next() -> None:
    """A call without padding counts every token, also after one that failed; nothing but padding gives no gate."""
    layer, x_BQD = gated(Pairwise, Headwise()), randn(1, 2, 12, 8, dtype=torch.float32)
    with watch_gates(layer) as found:
        with pytest.raises(RuntimeError):
            layer(x_BQD[..., :5], real_BS=torch.zeros(2, 12, dtype=torch.bool))
        layer(x_BQD)
    assert sum(found["gate"]["counts"]) == 2 * 2 * 12
    with watch_gates(layer) as found:
        layer(x_BQD, real_BS=torch.zeros(2, 12, dtype=torch.bool))
    assert found == {}
    assert not layer._forward_pre_hooks
    assert not layer._forward_hooks


def test_a_warning_is_not_given_again_after_a_kill(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the log has warned of stands in the checkpoint."""
    monkeypatch.setattr("core.train.probe.LEAST", 1)
    arm, run = trainer("--gate.bias=-9", "--train.log_every=1"), RunDir.open(tmp_path, {}, {})
    track = Jsonl().start(tmp_path, 0)
    said: list[str] = []
    listener = Listener(step=lambda step, numbers: None, valid=lambda step, numbers: None, say=said.append)
    stops = iter([False, False, True])
    assert not arm.fit(run, track, listener, lambda: next(stops))
    assert len(said) == 2
    again = trainer("--gate.bias=-9", "--train.log_every=1")
    assert again.take_up(run) == 2
    assert again.fit(run, track, listener, lambda: False)
    assert len(said) == 2
    track.finish()
    run.close()


def test_a_gate_that_is_shut_is_told_once_and_stands_in_the_report(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each unhealthy gate has one line in the log, and the same sentence in the report; healthy ones have none."""
    monkeypatch.setattr("core.train.probe.LEAST", 1)
    monkeypatch.setattr("core.report.write.LEAST", 1)
    assert main(["run", *GATED, "--train.log_every=1", "--gate.bias=-9", "-o", str(tmp_path / "shut")]) == 0
    said = capsys.readouterr().err
    log = (tmp_path / "shut" / "log.txt").read_text().splitlines()
    told = [line for line in log if "warning: gate" in line]
    assert len(told) == 2
    page = html.unescape((tmp_path / "shut" / "report.html").read_text())
    for block, line in enumerate(told):
        sentence = line.partition("warning: ")[2]
        assert sentence.startswith(f"gate blocks.{block}.attention.gate, step 1: it shuts nearly everything out")
        assert sentence in page
        assert sentence in said
    records = [json.loads(line) for line in (tmp_path / "shut" / "metrics.jsonl").read_text().splitlines()]
    assert records[0]["stat/gate/blocks.1.attention.gate/saturated"] == 1.0


def test_a_penalty_reaches_the_loss_that_is_differentiated() -> None:
    """The penalty stands in the step's terms, and the gate's weights come out smaller than without it."""
    plain = trainer()
    limited = trainer("--gate.spectral=penalty", "--gate.spectral_bound=0.1", "--gate.spectral_weight=1000")
    lists: Sequence[list[dict[str, float]]] = [list(steps(arm, 3)) for arm in (plain, limited)]
    assert "train/loss/spectral" not in lists[0][0]
    first = lists[1][0]
    assert first["train/loss"] == pytest.approx(lists[0][0]["train/loss"] + first["train/loss/spectral"])
    assert lists[1][2]["train/loss/spectral"] < first["train/loss/spectral"]
    norms = [
        float(torch.linalg.matrix_norm(arm.model.get_parameter("blocks.0.attention.gate.weight").detach(), 2))
        for arm in (plain, limited)
    ]
    assert norms[1] < norms[0]
    assert limited.validate().keys() == plain.validate().keys()


def test_listening_sums_by_name_and_keeps_blocks_apart() -> None:
    """What is told under one name is added up; an inner block takes what it hears; without a listener nothing runs."""
    calls = []

    def loss(value: float) -> torch.Tensor:
        calls.append(value)
        return torch.tensor(value)

    tell("a", lambda: loss(1.0))
    assert calls == []
    with listen() as outer:
        tell("a", lambda: loss(1.0))
        with listen() as inner:
            tell("a", lambda: loss(8.0))
        tell("a", lambda: loss(2.0))
        tell("b", lambda: loss(4.0))
    assert {k: float(v) for k, v in outer.items()} == {"a": 3.0, "b": 4.0}
    assert {k: float(v) for k, v in inner.items()} == {"a": 8.0}
    with pytest.raises(RuntimeError, match="stop"), listen():
        raise RuntimeError("stop")
    tell("a", lambda: loss(16.0))
    assert calls == [1.0, 8.0, 2.0, 4.0]
