"""Judging perturbation predictions: intervals, ceilings, calibrated scores and warnings."""

from __future__ import annotations

import math

import numpy as np
import pytest

from core.config import resolve_part
from core.kinds.comparison import Truth
from core.kinds.metric import Graded
from core.score import CEILING, MODEL
from plugins.systems.perturb.alerts import alerts, collapse, constant, copied, counts, no_better, zeros
from plugins.systems.perturb.baselines import Train, fit
from plugins.systems.perturb.commands import every
from plugins.systems.perturb.judge import Judged, calibrate, halves, interval, judge
from plugins.systems.perturb.standing import matched, stand
from tests.made_screens import GENES, screen

NAMES = ("pearson_delta", "mse", "mae", "centroid_accuracy", "zero_rate_gap", "de_nsig_counts_pred", "variance_ratio")
HELD = ("G4", "G5", "G8", "G1+G2")


def metrics(*names: str):
    """Metrics by name."""
    return [resolve_part("metric", name, {}) for name in names]


@pytest.fixture(scope="module")
def truth() -> Truth:
    """Four held-out conditions; the others are known by their means."""
    controls, real, _ = screen()
    return Truth(
        groups={name: real[name] for name in HELD},
        reference=controls,
        features=GENES,
        known={name: table.mean(0, dtype=np.float64) for name, table in real.items() if name not in HELD},
    )


@pytest.fixture(scope="module")
def judged(truth: Truth) -> Judged:
    """The made prediction beside every baseline."""
    train = Train(genes=GENES, means=truth.known, counts=dict.fromkeys(truth.known, 24), controls={"": truth.reference})
    rng = np.random.default_rng(0)
    arms = {MODEL: {name: screen()[2][name] for name in HELD}}
    arms |= {b.name: {name: b.cells(name, 24, rng) for name in HELD} for b in fit(train)}
    return judge(truth, arms, metrics(*NAMES, "pearson_perturbed"), rng)


def test_judged(judged: Judged) -> None:
    """Every arm has every metric, within its interval; the baseline is 0 and the model near its truth above it."""
    arms = {r.arm for r in judged.results}
    assert len(arms) == 11
    assert len(judged.results) == 11 * (len(NAMES) + 1)
    assert judged.baseline == "perturbed mean"
    for r in judged.results:
        assert r.low <= r.graded.value + 1e-12
        assert r.graded.value - 1e-12 <= r.high
    assert judged.of("perturbed mean", "pearson_delta").calibrated == 0.0
    assert 0.5 < judged.of(MODEL, "pearson_delta").calibrated < 1.3
    assert judged.of(MODEL, "de_nsig_counts_pred").calibrated is None
    assert judged.of(MODEL, "no_such") is None


def test_scores(judged: Judged) -> None:
    """Scores of the final table carry conditions and the ceiling; descriptions are no scores."""
    scores = judged.scores("held out")
    assert {s.metric for s in scores} == {*NAMES, "pearson_perturbed"} - {"de_nsig_counts_pred"}
    assert {s.arm for s in scores} >= {MODEL, CEILING, "additive"}
    own = next(s for s in scores if s.arm == MODEL and s.metric == "mse")
    assert own.units.keys() == {*HELD}
    assert own.value == pytest.approx(np.mean([*own.units.values()]))
    assert not own.higher


def test_same_seed(truth: Truth) -> None:
    """Intervals and ceilings follow the generator alone."""
    arms = {MODEL: {name: screen()[2][name] for name in HELD}}
    a, b = (judge(truth, arms, metrics("mse", "pearson_delta"), np.random.default_rng(5)) for _ in range(2))
    assert [(r.low, r.high) for r in a.results] == [(r.low, r.high) for r in b.results]
    assert a.ceiling == b.ceiling
    assert a.baseline is None


def test_left_out_with_a_reason(truth: Truth) -> None:
    """A metric that the truth leaves undefined becomes a sentence, for all arms and the ceiling."""
    bare = Truth(groups=truth.groups, reference=truth.reference, features=GENES)
    arms = {MODEL: truth.groups}
    found = judge(bare, arms, metrics("pearson_perturbed", "mse"), np.random.default_rng(0))
    assert [r.metric.column() for r in found.results] == ["mse"]
    assert found.ceiling.keys() == {"mse"}
    assert "pearson_perturbed is left out" in found.notes[0]


@pytest.mark.parametrize("name", ["mse", "mae", "edistance", "mmd"])
def test_ceiling_of_noise(name: str) -> None:
    """Halves of 2n cells, brought to 2n, score what another 2n cells of the same law score, on average."""
    rng, rate = np.random.default_rng(2), np.linspace(0.5, 4, 15)

    def draw() -> np.ndarray:
        return np.log1p(rng.poisson(rate, (40, len(rate)))).astype(np.float32)

    genes = tuple(map(str, rate))
    truth = Truth(groups={f"c{i}": draw() for i in range(60)}, reference=draw(), features=genes)
    again = truth.against({name: draw() for name in truth.groups})
    (metric,) = metrics(name)
    assert halves(truth, [metric], rng)[name] == pytest.approx(metric.score(again).value, rel=0.08)


def test_small_conditions_have_no_halves(truth: Truth) -> None:
    """Conditions of fewer than four cells set no ceiling; where all are small there is none."""
    few = Truth(groups={n: t[:3] for n, t in truth.groups.items()}, reference=truth.reference, features=GENES)
    assert halves(few, metrics("mse"), np.random.default_rng(0)) == {}


@pytest.mark.parametrize("higher", [True, False])
def test_calibrate(higher: bool) -> None:
    """The baseline is 0, the ceiling 1, linear between; no scale where the ceiling is no better."""
    base, top = (0.2, 0.8) if higher else (0.8, 0.2)
    assert calibrate(base, base, top, higher=higher) == 0.0
    assert calibrate(top, base, top, higher=higher) == pytest.approx(1.0)
    assert calibrate(0.5, base, top, higher=higher) == pytest.approx(0.5)
    assert calibrate(0.5, top, base, higher=higher) is None
    assert calibrate(0.5, base, base, higher=higher) is None


def test_interval() -> None:
    """Intervals cover the mean of the law about as often as they say; one condition has none."""
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(100):
        graded = Graded.mean({str(i): float(x) for i, x in enumerate(rng.normal(1, 1, 40))})
        low, high = interval(graded, rng, 200)
        held += low <= 1 <= high
    assert 85 <= held <= 99
    alone = Graded.mean({"a": 3.0})
    assert interval(alone, rng) == (3.0, 3.0)


def test_warnings_name_what_is_wrong(truth: Truth, judged: Judged) -> None:
    """Each fault is told by itself, and a sound prediction has none."""
    real = truth.groups
    assert alerts(truth.against(screen_of(HELD)), judged, np.random.default_rng(0)) == []
    assert (counts(real, real), zeros(real, real), constant(real), collapse(real, real)) == ("", "", "", "")
    assert "G4 (100%)" in copied(real, real)
    assert copied(screen_of(HELD), real) == ""
    fewer = {**real, "G4": real["G4"][:5]}
    assert "G4 (5 for 24)" in counts(fewer, real)
    positive = {name: table + np.float32(0.01) for name, table in real.items()}
    assert "0% of predicted values are exactly 0" in zeros(positive, real)
    same = dict.fromkeys(real, real["G4"])
    assert "predicted alike" in constant(same)
    assert "0.625" in constant(same)  # (4 + 1) / 8
    flat = {name: np.repeat(table.mean(0, keepdims=True), 24, 0) for name, table in real.items()}
    assert "4 of 4 conditions" in collapse(flat, real)
    for sentence in (counts(fewer, real), zeros(positive, real), constant(same), collapse(flat, real)):
        assert sentence.endswith(".")
        assert "nan" not in sentence


def screen_of(names: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Predicted cells of some conditions."""
    return {name: screen()[2][name] for name in names}


def test_no_better() -> None:
    """A model within the interval of the perturbed mean is told; one clearly above is not."""
    rng = np.random.default_rng(0)
    rival = Graded.mean({str(i): 0.5 for i in range(20)})
    noise = rng.normal(0, 0.1, 20)
    near, far, below = (
        Graded.mean({str(i): 0.5 + gain + float(noise[i]) for i in range(20)}) for gain in (0.01, 0.3, -0.3)
    )
    assert "no better than the perturbed mean" in no_better(near, rival, rng)
    assert no_better(far, rival, rng) == ""
    assert "worse than the perturbed mean" in no_better(below, rival, rng)


def test_one_condition_proves_nothing() -> None:
    """With a single condition there is no interval and no verdict, only what was seen."""
    rng = np.random.default_rng(0)
    low, high = Graded.mean({"A": 0.2}), Graded.mean({"A": 0.5})
    said = no_better(low, high, rng)
    assert "-0.300; one condition has no interval" in said
    assert "worse" not in said
    assert no_better(high, low, rng) == ""


def test_zeros_are_told_by_their_direction() -> None:
    """Too few zeros want restoring; of too many that would be no advice."""
    full, half = {"A": np.ones((4, 6))}, {"A": np.tile([0.0, 1.0], (4, 3))}
    assert "too few: restore zeros" in zeros(full, half)
    assert "too many" in zeros(half, full)


def test_every_metric_is_told(truth: Truth) -> None:
    """All installed metrics of groups score the made prediction, and all but descriptions have a direction."""
    found = judge(truth, {MODEL: screen_of(HELD)}, metrics(*every()), np.random.default_rng(0), ceiling=False)
    assert len(found.results) == len(every()) >= 36
    assert all(math.isfinite(r.graded.value) for r in found.results)


def test_standing(truth: Truth) -> None:
    """A prediction stands beside baselines and further arms; notes say what no baseline knew; surplus cells are cut."""
    train = Train(genes=GENES, means=truth.known, counts=dict.fromkeys(truth.known, 24), controls={"": truth.reference})
    rng = np.random.default_rng(0)
    twice = {name: np.concatenate([cells, cells]) for name, cells in screen_of(HELD).items()}
    own = matched(twice, truth.groups, rng)
    assert {name: len(cells) for name, cells in own.items()} == dict.fromkeys(HELD, 24)
    without = {"without a part": dict.fromkeys(HELD, truth.reference[:24])}
    found = stand(truth, own, train, metrics("mse", "pearson_delta"), rng, others=without)
    assert len({r.arm for r in found.judged.results}) == 12
    assert any(note.startswith("additive: G4 not seen alone") for note in found.notes)
    assert found.warnings == ()
    bare = stand(truth, own, None, metrics("mse"), rng, ceiling=False)
    assert [r.arm for r in bare.judged.results] == [MODEL]
    assert not bare.judged.ceiling
