"""What a report says of a study: scales that belong together, units, names that stand alone, words instead of code."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest

import findings as hand
from core.study.conclude import conclude
from core.study.findings import Audited, CurvePoint, Findings
from core.study.folder import append, read
from core.study.report import markdown, page, sentences, show
from core.study.report.blocks import Box, Boxes, Picture, Say, Table
from core.study.report.contents import document
from core.study.report.words import short_names, smallest
from core.study.stats.power import detectable
from core.study.steps import stop
from core.study.table import Table as Trials
from core.study.work import AUDIT, audit_identity
from made import fill, made, make, put, scores


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here is about power cuts."""
    monkeypatch.setattr("os.fsync", lambda handle: None)


def blocks(findings: Findings, kind: Any) -> list[Any]:
    return [b for s in document(findings).sections for b in s.blocks if isinstance(b, kind)]


def table(findings: Findings, title: str) -> Table:
    return next(t for t in blocks(findings, Table) if t.title.startswith(title))


def picture(findings: Findings, title: str) -> Picture:
    return next(p for p in blocks(findings, Picture) if p.title.startswith(title))


def study(rows: Any, *, levels: tuple[str, ...] = (), axis: str = "ffn", **more: Any) -> Findings:
    """One axis, an arm a row of scores."""
    levels = levels or tuple("abcdefgh"[: len(rows)])
    seeds = range(len(rows[0]))
    system = hand.make_system(
        name="s", axes=(axis,), cells=[(one,) for one in levels], scores=rows, seeds=seeds, **more
    )
    return hand.make_findings([system], axes={axis: levels}, seeds=seeds)


# A base whose seeds lie two orders apart, and an arm that wins where scores are large: skewed, as of an error.
SKEWED = ([0.02, 0.05, 0.3, 0.9, 1.4, 3.1], [0.03, 0.03, 0.34, 1.3, 1.7, 3.3])


def test_the_smallest_effect_belongs_to_the_test_beside_it(capsys: pytest.CaptureFixture[str]) -> None:
    """It is a share of the baseline's mean by the spread of the differences that are tested, and says so."""
    findings = study(SKEWED)
    arm = findings.systems[0].arms[1]
    gap = np.subtract(*SKEWED[::-1])
    expected = detectable(6, float(gap.std(ddof=1)), 0.05) / np.mean(SKEWED[0])
    assert arm.verdict.word == "inconclusive"
    assert arm.verdict.detectable_relative == pytest.approx(expected, rel=1e-9)
    # By logarithms it would be several times as much, beside a p value that knows nothing of them.
    assert np.expm1(detectable(6, arm.contrast.relative_sd, 0.05)) > 2 * expected
    told = f"{100 * expected:.1f}\N{NO-BREAK SPACE}%"
    assert smallest(arm) == f"{told} of the baseline's mean"
    assert smallest(arm, bare=True) == told
    assert f"6 seeds find differences of {told} of the baseline's mean or more" in sentences(findings)[0]
    box: Box = blocks(findings, Boxes)[0].boxes[0]
    assert box.why == f"smallest detectable difference: {told} of the baseline's mean"
    show(findings)
    printed = " ".join(capsys.readouterr().out.split())
    assert "the smallest difference that the test would find, in % of the baseline's mean" in printed
    for text in (printed, table(findings, "s: ").note, markdown.render(document(findings))):
        assert "are on differences; changes in %, and equivalence, are on logarithms" in " ".join(text.split())


def test_scores_of_both_signs_have_sizes_in_their_own_unit(capsys: pytest.CaptureFixture[str]) -> None:
    """No share, no logarithm, and no word of them."""
    findings = study(([-1.0, 0.5, 2.0, 0.1], [-0.7, 0.9, 1.2, 0.4]))
    verdict = findings.systems[0].arms[1].verdict
    assert verdict.detectable_relative is None
    assert smallest(findings.systems[0].arms[1]) == f"{verdict.detectable:.2f}"
    show(findings)
    assert "in the metric's own unit" in capsys.readouterr().out


def test_sizes_of_both_kinds_are_told_apart(capsys: pytest.CaptureFixture[str]) -> None:
    """An arm with a score below 0 has its sizes in the metric's unit beside others in per cent; the note says so."""
    show(study(([1.0, 1.5, 2.0, 1.1], [-0.7, 0.9, 1.2, 0.4], [1.1, 1.4, 2.2, 1.3])))
    told = " ".join(capsys.readouterr().out.split())
    assert "in % of the baseline's mean, or without % in the metric's own unit; tests," in told


def test_a_change_that_points_the_other_way_is_not_quoted_beside_a_verdict() -> None:
    """Where the mean difference is up and the mean logarithm down, the answer gives the difference."""
    base = np.array([0.02, 0.03, 1.0, 2.0, 3.0])
    findings = study((base, base * [0.2, 0.3, 1.2, 1.1, 1.15]))
    contrast = findings.systems[0].arms[1].contrast
    assert contrast.relative.value < 0 < contrast.difference.value
    assert re.search(r"\(\+0\.\d+ \[", sentences(findings)[0])


def test_power_is_that_of_the_test(tmp_path: Path) -> None:
    """The seeds that a study needs, and its curve, are by differences over the baseline's mean."""
    stored, trials = made(tmp_path, seeds=range(6))
    base, arm = (dict(enumerate(row)) for row in SKEWED)
    fill(trials, stored, lambda t: (base if t.arm == "ffn=dense" else arm)[t.seed])
    found = conclude(stored, trials).systems[0]
    here = next(point for point in found.power if point.n == 6)
    assert found.power_relative
    assert here.detectable == pytest.approx(found.arms[1].verdict.detectable_relative)
    told = [w for w in conclude(stored, trials).warnings if w.startswith("W-POWER")]
    assert [f"a difference of 5% of the baseline's mean needs {found.needed} seeds" in w for w in told] == [True]


def test_the_noise_floor_is_a_band_on_the_figures_own_scale() -> None:
    """Down it ends at exp(-x) - 1, above -100 %; the A/A row has the floor of its own difference beside it."""
    rows = np.array(SKEWED)[:, [0, 3, 1, 5, 2, 4]]
    findings = study(rows)
    noise = findings.systems[0].noise
    low, high = noise.band_relative
    assert -1 < low < 0 < high
    assert np.log1p(low) == pytest.approx(-np.log1p(high))
    drawn = picture(findings, "Differences")
    hit = re.search(r"the noise floor, on logarithms, −([\d.]+)\s% to \+([\d.,]+)\s%", drawn.caption)
    assert float(hit[1]) == pytest.approx(-100 * low, abs=0.06)
    assert float(hit[2].replace(",", "")) == pytest.approx(100 * high, rel=0.01)
    first = table(findings, "Noise").rows[0]
    half = (noise.difference.high - noise.difference.low) / 2
    assert noise.floor == pytest.approx(half)
    assert first[-1].text.startswith(f"floor ±{half:.2f}; p = ")


def test_the_band_lies_where_the_intervals_lie() -> None:
    """Both ends of the grey band are at their places on the axis of the intervals."""
    rng = np.random.default_rng(2)
    findings = study(np.exp(rng.normal(0, 0.2, (3, 8))))
    panel = picture(findings, "Differences").panels[0]
    x, width = map(
        float, re.search(r'<rect x="([\d.]+)" y="[\d.]+" width="([\d.]+)"[^>]*class="noise"', panel).groups()
    )
    ends = [a.contrast.relative for a in findings.systems[0].arms[1:]]
    lines = re.findall(r'<line x1="([\d.]+)" y1="[\d.]+" x2="([\d.]+)" y2="[\d.]+" class="range', panel)
    slope, offset = np.polyfit([v for e in ends for v in (e.low, e.high)], np.array(lines, float).ravel(), 1)
    low, high = findings.systems[0].noise.band_relative
    assert (x, x + width) == pytest.approx((slope * low + offset, slope * high + offset), abs=0.3)


REFERENCES = {"mean": 0.2, "ceiling": 2.0}


@pytest.mark.parametrize("systems", [("spatial",), ("spatial", "perturb")])
def test_interquartile_means_have_a_unit_and_a_place(tmp_path: Path, systems: tuple[str, ...]) -> None:
    """Per cent of the way; where there is one system they stand among its scores and speak of seeds alone."""
    stored, trials = made(tmp_path, systems=systems, seeds=range(4))
    fill(trials, stored, lambda t: 1 + 0.1 * t.seed + 0.01 * len(t.arm), references=REFERENCES)
    findings = conclude(stored, trials)
    found = table(findings, "Interquartile")
    assert found.header[1:] == ("interquartile mean, % of the way", "difference, % of the way")
    assert found.note.startswith(
        "In per cent of the way from the trivial baseline (0) to the best possible score (100)"
    )
    place = next(s.title for s in document(findings).sections if found in s.blocks)
    assert place == ("Scores" if len(systems) == 1 else "All systems")
    assert ("systems" in found.note) == (len(systems) > 1)


NUMBERS = {"train.lr": ("0.003", "3.0"), "ffn": ("dense", "moe4x2"), "attention.heads": ("2", "4")}


def test_numbers_keep_the_last_word_of_their_key(capsys: pytest.CaptureFixture[str]) -> None:
    """`lr=3.0` and `heads=4` in sentences, boxes, the console and figures; a piece's name stands for itself."""
    cells = [("0.003", "dense", "2"), ("3.0", "dense", "2"), ("0.003", "moe4x2", "4"), ("3.0", "moe4x2", "2")]
    rows = np.random.default_rng(1).normal(1, 0.1, (4, 5))
    system = hand.make_system(name="s", axes=tuple(NUMBERS), cells=cells, scores=rows, seeds=range(5))
    findings = hand.make_findings([system], axes=NUMBERS, seeds=range(5))
    names = ["heads=2 + dense + lr=0.003", "lr=3.0", "heads=4 + moe4x2", "moe4x2 + lr=3.0"]
    for known in (None, ("ffn",)):
        findings = attrs.evolve(findings, pieces=known)
        assert [*short_names(findings, system).values()] == names
    assert f"against the baseline {names[0]}: " in sentences(findings)[0]
    assert {box.name for box in blocks(findings, Boxes)[0].boxes} == {*names[1:]}
    assert ">lr=3.0</text>" in picture(findings, "Every seed").panels[0]
    show(findings)
    assert all(name in capsys.readouterr().out for name in names[:1])


def test_texts_keep_their_key_too() -> None:
    """A text is no piece's name, whatever it looks like; keys whose last words are one are given in full."""
    findings = attrs.evolve(study(np.ones((2, 3)), levels=("cpu", "auto"), axis="run.device"), pieces=())
    assert [*short_names(findings, findings.systems[0]).values()] == ["device=cpu", "device=auto"]
    both = attrs.evolve(findings, axes={**findings.axes, "eval.device": ("x",)})
    assert [*short_names(both, both.systems[0]).values()] == ["run.device=cpu", "run.device=auto"]


def test_the_plan_says_which_axes_are_pieces(tmp_path: Path) -> None:
    """What it says reaches the findings; a plan from before it did says nothing."""
    plan = make(axes={"ffn": ("dense", "moe")})
    plan.keep(tmp_path / "old")
    assert conclude(read(tmp_path / "old"), Trials(tmp_path / "old")).pieces is None
    attrs.evolve(plan, doc={**plan.doc, "pieces": ["ffn"]}).keep(tmp_path / "new")
    assert conclude(read(tmp_path / "new"), Trials(tmp_path / "new")).pieces == ("ffn",)


@pytest.mark.parametrize("said", ["worse than the baseline by 2.10", "stopped: worse than the baseline by 2.10"])
def test_stopped_is_said_once(tmp_path: Path, said: str) -> None:
    """The step and the reason follow the word; what older rungs wrote reads the same."""
    stored, trials = made(tmp_path, axes={"swing": ("0", "1", "2")})
    for trial in stored.trials:
        if trial.arm == "swing=2":
            stop(trials, trial.id, {"message": f"step 1000: {said} standard errors over 6 pairs"})
        else:
            put(trials, trial.id, scores(1.0 + trial.seed))
    findings = conclude(stored, trials)
    assert sentences(findings)[-1].endswith(
        "swing=2 was stopped at step 1,000: worse than the baseline by 2.10 standard errors over 6 pairs."
    )
    box = next(b for b in blocks(findings, Boxes)[0].boxes if b.word == "stopped")
    assert box.why == "At step 1,000: worse than the baseline by 2.10 standard errors over 6 pairs"


def test_long_names_of_axes_are_not_cut() -> None:
    """The metric's name and its direction are whole below the dots, on two lines, and the panel is as high."""
    label = "Spearman of distances (median cell)"
    short, long = (picture(study(SKEWED, label=name), "Every seed").panels[0] for name in ("score", label))
    told = " ".join(re.findall(r'class="name">([^<]*)<', long))
    assert told == f"{label} (higher is better)"
    high = [float(re.search(r'viewBox="0 0 360 ([\d.]+)"', panel)[1]) for panel in (short, long)]
    assert high[1] == high[0] + 12


def test_one_validation_is_a_sentence_and_no_curve() -> None:
    """Two points are a line; one is said in words, with the losses."""
    findings = study(SKEWED)
    assert picture(findings, "Learning curves")
    once = [
        attrs.evolve(arm, curve=(CurvePoint(step=4000, mean=2.5 + i, low=2.0, high=4.0),))
        for i, arm in enumerate(findings.systems[0].arms)
    ]
    findings = attrs.evolve(findings, systems=(attrs.evolve(findings.systems[0], arms=tuple(once)),))
    assert not [p for p in blocks(findings, Picture) if p.title.startswith("Learning")]
    told = next(b.text for b in blocks(findings, Say) if "taken once" in b.text)
    assert told.startswith("s: validation loss was taken once, at step 4,000 (a: 2.50 and b: 3.50, means over seeds)")


def test_rows_of_wide_tables_name_their_cells() -> None:
    """On a phone they become cards: each cell of a table of more than five columns carries its heading."""
    text = page.render(document(study(SKEWED)))
    wide = re.search(r'<table class="browse cards">.*?</table>', text, re.DOTALL)[0]
    assert 'data-label="change %"' in wide
    assert len(re.findall("<td", wide)) == len(re.findall("<td[^>]* data-label=", wide))
    assert "data-label" not in re.search(r"<table>.*?</table>", text, re.DOTALL)[0]


def test_a_changed_analysis_is_told_in_words(tmp_path: Path) -> None:
    """Each change from what held before it, without brackets or quotes."""
    stored, trials = made(tmp_path, analysis__metric=())
    fill(trials, stored, lambda t: 1.0 + t.seed)
    for value in (["task/score"], ["score"]):
        append(tmp_path, {
            "kind": "analysis", "settings": {"analysis.metric": [value, "CLI"]}, "metrics": {},
            "text": f"the analysis was changed when 12 of 12 results were known: analysis.metric from [] to {value}",
        })  # fmt: skip
    told = [d.text for d in conclude(read(tmp_path), trials).deviations]
    head = "the analysis was changed when 12 of 12 results were known: analysis.metric from"
    assert told == [f"{head} none to task/score", f"{head} task/score to score"]


def test_reasons_say_because_once(tmp_path: Path) -> None:
    """Whether the user wrote it or not."""
    stored, trials = made(tmp_path, idle=[("ffn=x", "excluded", "because the kernel is missing")])
    findings = conclude(stored, trials)
    assert [d.text for d in findings.deviations] == ["ffn=x was left out of the design, because the kernel is missing"]
    assert table(findings, "Cells that do not run").rows[0][2].text == "the kernel is missing"


def repeat(root: Path, trials: Trials, trial: str, value: float, number: int = 1) -> str:
    again = Trials.create(root / AUDIT)
    name = again.add([audit_identity(trials.config(trial)[0], number)])[0]
    put(again, name, scores(value))
    return name


def test_repeated_trials_are_told(tmp_path: Path) -> None:
    """The provenance counts trials whose repetition ended, and how many gave other numbers; pending ones are none."""
    stored, trials = made(tmp_path)
    fill(trials, stored, lambda t: 1.0 + t.seed)
    chosen = stored.trials[:4]

    def told() -> list[str]:
        findings = conclude(stored, trials)
        return [b.text for b in blocks(findings, Say) if "repeated from nothing" in b.text]

    assert told() == []
    Trials.create(tmp_path / AUDIT).add([audit_identity(trials.config(chosen[3].id)[0], 1)])
    assert told() == []
    repeat(tmp_path, trials, chosen[0].id, 1.0 + chosen[0].seed)
    assert told() == ["1 trial was repeated from nothing: the same to the last digit."]
    repeat(tmp_path, trials, chosen[1].id, 1.0 + chosen[1].seed)
    repeat(tmp_path, trials, chosen[1].id, 1.0 + chosen[1].seed, 2)
    assert told() == ["2 trials were repeated from nothing, 3 times in all: all the same."]
    broken = repeat(tmp_path, trials, chosen[2].id, 7.5)
    assert told() == ["3 trials were repeated from nothing, 4 times in all: 1 gave other numbers, 2 the same."]
    assert conclude(stored, trials).audited == Audited(trials=3, repetitions=4, other=1)
    path = Trials(tmp_path / AUDIT).folder(broken) / "result.json"
    path.write_bytes(path.read_bytes()[:-3])
    assert told() == ["2 trials were repeated from nothing, 3 times in all: all the same."]


def test_a_damaged_audit_costs_no_report(tmp_path: Path) -> None:
    """The study is judged, and a warning says why its repetitions are not told."""
    stored, trials = made(tmp_path)
    fill(trials, stored, lambda t: 1.0 + t.seed)
    repeat(tmp_path, trials, stored.trials[0].id, 1.0)
    (tmp_path / AUDIT / "LAYOUT").write_bytes(b"{}")
    findings = conclude(stored, trials)
    assert findings.audited is None
    assert [w for w in findings.warnings if w.startswith("W-AUDIT: ")]
