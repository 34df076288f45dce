"""Which units the spatial system scores, by what, and what it says of its rivals."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.cli.choose import resolve_run
from core.kinds import Evaluation, Score
from core.report.page import number
from core.train.streams import Streams
from plugins.systems.spatial import extra
from plugins.systems.spatial.judge import FEWEST, Judge
from plugins.systems.spatial.rivals import say_rivals
from small import SMALL


@given(cells=st.dictionaries(st.text("abc", min_size=1), st.integers(1, 3 * FEWEST), min_size=1))
def test_units_of_few_cells_are_told_and_left_out(cells: dict[str, int]) -> None:
    """A small unit is named with its size and not scored beside larger ones; where all are small, all are scored."""
    judge = Judge(())
    chosen = judge.choose(cells)
    small = {name for name, count in cells.items() if count < FEWEST}
    assert chosen
    assert set(chosen) == (set(cells) - small or set(cells))
    assert bool(judge.notes) == bool(small)
    assert all(f"{name} ({cells[name]})" in judge.notes[0] for name in small)
    assert list(judge.evaluation().notes[: len(judge.notes)]) == judge.notes


def score(arm: str, units: dict[str, float], higher: bool = True, metric: str = "m", task: str = "t") -> Score:
    value = sum(units.values()) / len(units)
    return Score(task=task, arm=arm, metric=metric, value=value, higher=higher, label="M (of x)", units=units)


@pytest.mark.parametrize("higher", [True, False])
def test_a_simple_rule_as_good_as_the_model_is_told(higher: bool) -> None:
    """The best kNN or ridge stands beside the model with the numbers of each section."""
    sign = 1.0 if higher else -1.0
    arms = {
        "model": {"a": 0.5, "b": 0.7}, "mean position": {"a": 0.9, "b": 0.9}, "ridge": {"a": 0.4, "b": 0.4},
        "nearest 15 cells": {"a": 0.6, "b": 0.6001},
    }  # fmt: skip
    scores = [score(arm, {u: sign * v for u, v in units.items()}, higher) for arm, units in arms.items()]
    (said,) = say_rivals(scores)
    assert said.startswith("A simple rule is as good as the model on 't': 'nearest 15 cells' reaches")
    assert "better in 1 of 2 sections" in said
    assert f"a {number(sign * 0.6)} against {number(sign * 0.5)}" in said
    better = [score("model", {"a": sign * 0.8, "b": sign * 0.8}, higher), *scores[1:]]
    assert say_rivals(better)[0].startswith("No kNN and no ridge is as good")
    assert say_rivals(scores[:2]) == []


@pytest.fixture(scope="module")
def judged() -> Evaluation:
    metrics = "joint_coherence,calibration,distance_calibration,moran_agreement,cluster_ari,cluster_nmi,rssd_class"
    run = resolve_run([], [*SMALL, "--metrics", f"{metrics},contact_f1,contact_f1(percentile=0.01)"]).root
    source = run.data.open()
    model = run.system.build(source.describe())
    Streams(0).initialise(model)
    return run.system.evaluate(model.eval(), source, "test", Streams(0))


def test_metrics_with_needs_are_scored_where_they_can_be(judged: Evaluation) -> None:
    """Draws are the model's alone, types and places everyone's; made cells have a task of their own."""
    arms: dict[str, set[str]] = {}
    for s in judged.scores:
        arms.setdefault(s.metric, set()).add(s.arm)
        assert set(s.units) == {"section3"}
    assert arms["calibration"] == arms["distance_calibration"] == {"model"}
    assert arms["joint_coherence"] == {"model", "training cells", "training cells, unpaired"}
    assert {"model", "ridge", "nearest 15 cells, even", "ceiling"} < arms["moran_agreement"]
    assert arms["rssd_class"] == arms["contact_f1"]
    assert {s.task for s in judged.scores if s.metric == "joint_coherence"} == {"joint generation"}


def test_made_cells_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sections make cells in order until the bound is spent, a first larger one as many as it; one modality none."""
    words = [*SMALL, "--metrics=joint_coherence,procrustes,expression_mse", "--data.sections=5", "--data.cut.test=0.6"]
    run = resolve_run([], words).root
    source = run.data.open()
    model = run.system.build(source.describe())
    Streams(0).initialise(model)
    made = {}
    for bound in (16, 120, 170, 4096):
        monkeypatch.setattr(extra, "MADE", bound)
        arrays = run.system.evaluate(model.eval(), source, "test", Streams(0)).arrays
        made[bound] = [len(values) for name, values in sorted(arrays.items()) if name.startswith("made_place/")]
    assert made == {16: [16], 120: [60, 60], 170: [60, 60], 4096: [60, 60, 60]}
    one = resolve_run([], [*words, "--mode=expr_to_pos"]).root.system
    model = one.build(source.describe())
    Streams(0).initialise(model)
    scores = one.evaluate(model.eval(), source, "test", Streams(0)).scores
    assert {s.metric for s in scores} == {"procrustes"}


def test_settings_of_one_metric_have_names_of_their_own(judged: Evaluation) -> None:
    """Two percentiles and two indices of one metric are told apart by key and by label."""
    labels = {s.metric: s.label for s in judged.scores}
    assert len({labels[m] for m in ("contact_f1", "contact_f1(percentile=0.01)")}) == 2
    assert "percentile=0.01" in labels["contact_f1(percentile=0.01)"]
    assert labels["cluster_agreement"] != labels["cluster_agreement(by=nmi)"]
