"""Tables of single test units and of groups of them, and what is said where there are many baselines."""

from __future__ import annotations

import math
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.kinds import Evaluation, Score
from core.report import units
from core.report.console import WIDTH, print_scores
from core.report.page import Page, render, verdicts
from core.report.units import group_tables, unit_tables

RIVALS = tuple(f"rival {i}" for i in range(7))
VALUES = st.sampled_from([0.1, 0.2, 0.3, 0.30001, math.nan])


def score(arm: str, metric: str, of: dict[str, float], higher: bool = True, task: str = "response") -> Score:
    value = sum(of.values()) / len(of)
    return Score(task=task, arm=arm, metric=metric, value=value, higher=higher, label=metric, units=of)


def evaluation(groups: dict[str, str] | None = None) -> Evaluation:
    scores = (
        score("model", "fit", {"A": 0.5, "B": 0.1, "C": 0.9}),
        score("model", "error", {"A": 3.0, "B": 1.0, "C": 2.0}, higher=False),
        score("mean", "fit", {"A": 0.4, "B": 0.2, "C": 0.0}),
        score("mean", "error", {"A": 1.0, "B": 1.0, "C": 1.0}, higher=False),
        score("ridge", "fit", {"A": 0.1, "B": 0.1, "C": 0.8}),
        score("ceiling", "fit", {"A": 1.0, "B": 1.0, "C": 1.0}),
    )
    return Evaluation(scores=scores, groups=groups or {})


def test_each_unit_has_a_row() -> None:
    """What the model reaches on each unit, the worst by the first metric on top; nothing of the baselines."""
    (table,) = unit_tables(evaluation())
    assert table.rows == (("B", "0.100", "1.000"), ("A", "0.500", "3.000"), ("C", "0.900", "2.000"))
    assert unit_tables(Evaluation(scores=(score("model", "fit", {"A": 1.0}),))) == []


def test_units_say_what_they_are() -> None:
    """Where units are of groups, a column names the group."""
    (table,) = unit_tables(evaluation({"A": "pair", "B": "single"}))
    assert [row[:2] for row in table.rows] == [("B", "single"), ("A", "pair"), ("C", "")]
    alone = Evaluation(scores=(score("model", "fit", {"A": 1.0}),), groups={"A": "pair"})
    assert unit_tables(alone)[0].rows == (("A", "pair", "1.000"),)


def test_groups_have_means_and_the_best_baseline_there() -> None:
    """Means over the units of a group, beside those of the baseline that is best in that group; no ceiling."""
    (table,) = group_tables(evaluation({"A": "pair", "B": "pair", "C": "single"}))
    assert table.rows == (
        ("pair (2)", "model", "0.300", "2.000"),
        ("", "mean", "0.300", "1.000"),
        ("single (1)", "model", "0.900", "2.000"),
        ("", "ridge", "0.800", "–"),
    )
    assert table.own == {0, 2}
    assert group_tables(evaluation({"A": "pair", "B": "pair", "C": "pair"})) == []


def test_many_units_are_cut_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """A page lists so many units and says how many there are; a short table is open, a long one folded."""
    monkeypatch.setattr(units, "MOST", 50)
    of = {f"u{i}": float(i) for i in range(60)}
    (table,) = unit_tables(Evaluation(scores=(score("model", "fit", of),)))
    assert len(table.rows) == 50
    assert "first 50 of 60" in table.note
    page = Page(title="A run", subtitle="", verdicts=(), units=(table, *unit_tables(evaluation())))
    assert re.findall(r"<details( open)?><summary>Response: the model on each of (\d+)", render(page)) == [
        ("", "60"), (" open", "3"),
    ]  # fmt: skip


def test_many_baselines_are_told_by_the_first_metric() -> None:
    """Among many rivals the sentence says where the model stands by the first metric, and who wins most metrics."""
    scores = [score("model", "fit", {"A": 0.5}), score("model", "error", {"A": 2.0}, higher=False)]
    for i, arm in enumerate(RIVALS):
        scores += [score(arm, "fit", {"A": 0.2 + 0.1 * i}), score(arm, "error", {"A": 1.0}, higher=False)]
    (said,) = verdicts(scores)
    assert said.startswith(
        "On 'response' the model has 0.500 on fit: ahead of rival 0 (0.200), rival 1 (0.300) and rival 2 (0.400); "
        "behind rival 4 (0.600), rival 5 (0.700) and rival 6 (0.800); level with rival 3 (0.500). Of all 2 metrics it "
        "loses more than it wins against rival 3, rival 4, rival 5 and rival 6."
    )


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(VALUES, VALUES), min_size=8, max_size=8))
def test_every_baseline_is_placed_once(values: list[tuple[float, float]]) -> None:
    """Ahead, behind or level: by the first metric each rival is named once, whatever the numbers."""
    scores = []
    for arm, (fit, error) in zip(("model", *RIVALS), values, strict=True):
        scores += [score(arm, "fit", {"A": fit}), score(arm, "error", {"A": error}, higher=False)]
    lead = verdicts(scores)[0].partition(" Of all")[0]
    assert sorted(re.findall(r"(rival \d) \(", lead)) == [*RIVALS]


def test_no_name_is_cut_on_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """Where metrics do not fit beside each other there are several tables, each with all arms, and all names whole."""
    names = [f"a_metric_of_a_long_name_{i}" for i in range(13)]
    print_scores(Evaluation(scores=tuple(score(arm, n, {"A": 0.5}) for arm in ("model", "mean") for n in names)))
    said = capsys.readouterr().out
    assert all(f"{name} ↑" in said for name in names)
    assert said.count("│ model ") == said.count("│ mean ") > 1
    assert said.count("0.500") == 2 * len(names)
    assert max(map(len, said.splitlines())) <= WIDTH
