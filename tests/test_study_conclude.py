"""From results to findings: what is counted, compared, corrected, left out and told."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core.errors import UserError
from core.identity import canonical_json
from core.study.conclude import conclude
from core.study.findings import ArmFound, Findings
from core.study.folder import Stored, append, read
from core.study.sealed import TableError
from core.study.stats import (
    Margin,
    Scale,
    effects,
    iqm,
    judge,
    nadeau_bengio,
    noise_floor,
    over_tasks,
    paired,
    two_level,
)  # fmt: skip
from core.study.steps import claim, end, stop
from core.study.table import Table
from made import KEY, fail, fill, made, make, put, scores

STATES = (
    "pending",
    "running",
    "done",
    "failed",
    "crashed",
    "timeout",
    "exhausted",
    "stopped",
    "interrupted",
    "corrupt",
)


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here is about power cuts."""
    monkeypatch.setattr("os.fsync", lambda handle: None)


def noise(*key: Any) -> float:
    """A number of its own for every key, about normal, the same whenever asked."""
    return random.Random(repr(key)).gauss(0, 1)


def value(trial: Any, step: float = 0.0) -> float:
    """Scores around 1 whose seeds are shared by arms; every arm after the first by name is better by `step`."""
    rank = 0 if trial.arm.endswith("dense") else 1
    return 1 + 0.1 * noise(trial.system, trial.block, trial.seed) + step * rank + 0.01 * noise(trial.id)


def arms(findings: Findings, system: int = 0) -> dict[str, ArmFound]:
    return {arm.label: arm for arm in findings.systems[system].arms}


def column(stored: Stored, label: str, of: Any = value, system: str = "spatial") -> list[float | None]:
    """An arm's scores in the order of blocks and seeds."""
    ours = sorted((t for t in stored.trials if (t.system, t.arm) == (system, label)), key=lambda t: (t.block, t.seed))
    return [of(t) for t in ours]


def bring(table: Table, trial: str, state: str) -> None:
    """Bring a trial into a state."""
    if state == "running":
        claim(table, trial)
    elif state in ("done", "corrupt"):
        put(table, trial, scores(1.0))
        if state == "corrupt":
            path = table.folder(trial) / "result.json"
            path.write_bytes(path.read_bytes()[:-9])
    elif state == "exhausted":
        fail(table, trial)
        fail(table, trial, "worse")
    elif state == "stopped":
        stop(table, trial, {"message": "step 5: stopped"})
    elif state == "interrupted":
        fail(table, trial, how="interrupted")
    elif state != "pending":
        fail(table, trial, how=state)


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(states=st.lists(st.sampled_from(STATES), min_size=12, max_size=12))
def test_the_accounting_adds_up(states: list[str], tmp_path_factory: pytest.TempPathFactory) -> None:
    """In every mixture of states each trial is counted once, and nothing is complete that is not."""
    stored, table = made(tmp_path_factory.mktemp("s"), idle=[("ffn=x", "n/a", "no"), ("ffn=y", "excluded", "why")])
    for trial, state in zip(stored.trials, states, strict=True):
        bring(table, trial.id, state)
    findings = conclude(stored, table)
    counts = dict(findings.counts)
    assert (counts.pop("planned"), counts.pop("n/a"), counts.pop("excluded")) == (12, 1, 1)
    assert sum(counts.values()) == 12
    names = {"interrupted": "pending", "corrupt": "running"}
    expected = [names.get(state, state) for state in states]
    # A damaged result leaves its claim without an end; its owner is this very process, which lives.
    assert counts == {name: expected.count(name) for name in counts}
    assert findings.complete == ({*expected} <= {"done", "stopped"})
    outcomes = [one.state for arm in findings.systems[0].arms for one in arm.outcomes]
    assert sorted(outcomes) == sorted(expected)
    told = [d.kind for d in findings.deviations]
    assert told.count("corrupt") == states.count("corrupt")
    assert told.count("missing") == sum(state in ("failed", "crashed", "timeout", "exhausted") for state in states)
    assert told.count("excluded") == 1
    json.dumps(attrs.asdict(findings), allow_nan=False)


def test_a_study_without_a_result_is_judged(tmp_path: Path) -> None:
    """Nothing is known, nothing is claimed, and nothing breaks."""
    stored, table = made(tmp_path)
    findings = conclude(stored, table)
    arm = arms(findings)["ffn=moe"]
    assert (arm.mean, arm.contrast.n, arm.verdict.word) == (None, 0, "not tested")
    assert findings.counts["pending"] == 12
    assert not findings.complete


def test_numbers_are_those_of_the_statistics(tmp_path: Path) -> None:
    """Contrast, verdict over the whole family, noise floor and effects equal direct calls."""
    axes = {"ffn": ("dense", "moe"), "attention": ("softmax", "linear")}
    stored, table = made(tmp_path, axes=axes, analysis__alpha=0.1, analysis__margin=0.05)

    def of(trial: Any) -> float:
        return value(trial) + 0.3 * ("linear" in trial.arm) - 0.05 * ("moe" in trial.arm)

    fill(table, stored, of)
    found = conclude(stored, table).systems[0]
    base, *others = [arm.label for arm in found.arms]
    assert base == "ffn=dense attention=softmax"
    contrasts = [
        paired(column(stored, base, of), column(stored, other, of), larger_is_better=True, alpha=0.1)
        for other in others
    ]
    assert [arm.contrast for arm in found.arms[1:]] == contrasts
    expected = judge(contrasts, alpha=0.1, margin=Margin(value=0.05, relative=True), family_size=3)
    assert [arm.verdict for arm in found.arms[1:]] == expected
    assert {v.word for v in expected} >= {"better"}
    own = column(stored, base, of)
    assert found.noise == noise_floor(own[0::2], own[1::2], 0.1)
    trials = sorted(stored.trials, key=lambda t: ([base, *others].index(t.arm), t.seed))
    direct = effects(
        [of(t) for t in trials],
        {key: [dict(p.split("=") for p in t.arm.split())[key] for t in trials] for key in sorted(axes)},
        [f"/{t.seed}" for t in trials], baseline={"ffn": "dense", "attention": "softmax"}, alpha=0.1,
    )  # fmt: skip
    assert canonical_json(attrs.asdict(found.effects)) == canonical_json(attrs.asdict(direct))
    assert found.family == 3


def flat(estimate: Any) -> tuple[float, ...]:
    return attrs.astuple(estimate)


def test_the_family_counts_every_contrast_of_every_system(tmp_path: Path) -> None:
    """Holm runs over all systems' contrasts, those of stopped arms too, so that losing arms help nobody."""
    axes = {"ffn": ("dense", "moe", "none")}
    stored, table = made(tmp_path, axes=axes, systems=("spatial", "perturb"))
    for trial in stored.trials:
        if trial.system == "perturb" and trial.arm == "ffn=none":
            stop(table, trial.id, {"message": "step 3: stopped: worse"})
        else:
            put(table, trial.id, scores(value(trial, 0.05)))
    findings = conclude(stored, table)
    assert [system.family for system in findings.systems] == [4, 4]
    contrasts = [arm.contrast for system in findings.systems for arm in system.arms[1:] if arm.contrast]
    assert len(contrasts) == 3
    verdicts = [arm.verdict for system in findings.systems for arm in system.arms[1:] if arm.verdict]
    assert verdicts == judge(contrasts, alpha=0.05, margin=Margin(value=0.02, relative=True), family_size=4)
    assert {v.family_size for v in verdicts} == {4}
    idle = arms(findings, 1)["ffn=none"]
    assert idle.stopped == "step 3: stopped: worse"
    assert (idle.mean, idle.sd, idle.contrast, idle.verdict, idle.units) == (None,) * 5
    assert [d.text for d in findings.deviations if d.kind == "stopped"] == [
        "ffn=none (perturb): step 3: stopped: worse"
    ]
    assert findings.complete
    assert findings.counts["stopped"] == 6


REFERENCES = {"mean": 0.5, "mean per type": 0.7, "random": 0.1, "ceiling": 2.0}


def test_a_stopped_arm_is_in_no_mean_even_where_some_of_its_seeds_are_done(tmp_path: Path) -> None:
    """Secondary metrics, effects, interquartile means and means over systems leave it out; so it does if unreadable."""
    axes = {"ffn": ("dense", "moe", "none")}
    stored, table = made(tmp_path, axes=axes, systems=("spatial", "perturb"))
    for trial in stored.trials:
        if trial.arm == "ffn=none" and trial.system == "spatial" and trial.seed > 2:
            stop(table, trial.id, {"message": "gone"})
            (table.folder(trial.id) / "stopped.json").write_bytes(b"")
        else:
            second = scores(1.0 + trial.seed, key="task/second")
            put(table, trial.id, scores(value(trial), references=REFERENCES) + second)
    findings = conclude(stored, table)
    assert arms(findings)["ffn=none"].stopped == "stopped; the reason can no longer be read"
    assert arms(findings)["ffn=none"].mean is None
    assert arms(findings, 1)["ffn=none"].mean is not None
    first, other = (system.secondary[0] for system in findings.systems)
    assert {*first.means} == {"ffn=dense", "ffn=moe"}
    assert {*other.means} == {"ffn=dense", "ffn=moe", "ffn=none"}
    assert {*findings.iqm.means} == {"ffn=dense", "ffn=moe"}
    assert [one.label for one in findings.over_systems] == ["ffn=moe"]


def test_means_over_systems_stand_on_the_best_trivial_baseline_and_the_ceiling(tmp_path: Path) -> None:
    """Shares of the way from the best that learns nothing to the ceiling; smaller-is-better systems count alike."""
    stored, table = made(tmp_path, systems=("spatial", "perturb"))
    down = {"mean": 5.0, "random": 9.0, "ceiling": 0.5}
    for trial in stored.trials:
        if trial.system == "spatial":
            put(table, trial.id, scores(value(trial, 0.2), references=REFERENCES))
        else:
            put(table, trial.id, scores(4 - value(trial), higher=False, references=down))
    findings = conclude(stored, table)
    scales = {"spatial": Scale(trivial=0.7, best=2.0), "perturb": Scale(trivial=5.0, best=0.5)}

    def of(label: str) -> dict[str, list[float | None]]:
        return {
            "spatial": column(stored, label, lambda t: value(t, 0.2)),
            "perturb": column(stored, label, lambda t: 4 - value(t), "perturb"),
        }

    base, arm = of("ffn=dense"), of("ffn=moe")
    direct = over_tasks(base, arm, scales, alpha=0.05)
    assert flat(findings.over_systems[0].mean) == pytest.approx(flat(direct.mean))
    assert flat(findings.over_systems[0].effects["perturb"]) == pytest.approx(flat(direct.effects["perturb"]))
    middle = iqm({"ffn=dense": base, "ffn=moe": arm}, scales, baseline="ffn=dense", alpha=0.05)
    assert flat(findings.iqm.differences["ffn=moe"]) == pytest.approx(flat(middle.differences["ffn=moe"]))
    assert findings.systems[0].references == pytest.approx(REFERENCES)
    assert not findings.systems[1].larger_is_better


@pytest.mark.parametrize("references", [{}, {"mean": 0.5}, {"ceiling": 2.0}, {"mean": 2.0, "ceiling": 2.0}])
def test_without_a_scale_nothing_is_said_over_systems(tmp_path: Path, references: dict[str, float]) -> None:
    """A metric whose trivial baseline or ceiling nobody knows, or where both are one, is not pooled."""
    stored, table = made(tmp_path, systems=("spatial", "perturb"))
    fill(table, stored, value, references=references)
    findings = conclude(stored, table)
    assert (findings.over_systems, findings.iqm) == ((), None)


def test_only_complete_pairs_are_compared_and_the_rest_is_told(tmp_path: Path) -> None:
    """A seed that one arm misses is left out of the contrast, counted, and named with its reason."""
    stored, table = made(tmp_path)
    for trial in stored.trials:
        if trial.arm == "ffn=moe" and trial.seed == 2:
            fail(table, trial.id, "loss is nan", kind="UserError")
            fail(table, trial.id, "out of memory", how="crashed")
        elif (trial.arm, trial.seed) != ("ffn=dense", 4):
            put(table, trial.id, scores(value(trial, 0.1)))
    findings = conclude(stored, table)
    arm = arms(findings)["ffn=moe"]
    base = [None if s == 4 else v for s, v in enumerate(column(stored, "ffn=dense", lambda t: value(t, 0.1)))]
    own = [None if s == 2 else v for s, v in enumerate(column(stored, "ffn=moe", lambda t: value(t, 0.1)))]
    assert arm.contrast == paired(base, own, larger_is_better=True)
    assert (arm.contrast.n, arm.contrast.left_out) == (4, 2)
    assert arm.mean.value == pytest.approx(np.mean([v for v in own if v is not None]))
    assert [d.text for d in findings.deviations] == ["ffn=moe, seed 2: exhausted: RuntimeError: out of memory"]
    assert [one.message for one in arm.outcomes if one.message] == ["RuntimeError: out of memory"]
    assert not findings.complete


def test_an_interruption_does_not_hide_how_an_attempt_failed(tmp_path: Path) -> None:
    """The reason shown is that of the last attempt that failed."""
    stored, table = made(tmp_path)
    trial = stored.trials[0].id
    fail(table, trial, "boom")
    fail(table, trial, "", how="interrupted")
    outcome = arms(conclude(stored, table))["ffn=dense"].outcomes[0]
    assert outcome.message == "RuntimeError: boom"


def test_a_value_that_no_average_can_hold_is_missing_and_told(tmp_path: Path) -> None:
    """A score of 1e200 breaks no report and counts in no mean."""
    stored, table = made(tmp_path)
    wild = next(t for t in stored.trials if (t.arm, t.seed) == ("ffn=moe", 3))
    fill(table, stored, lambda t: 1e200 if t.id == wild.id else value(t))
    findings = conclude(stored, table)
    arm = arms(findings)["ffn=moe"]
    assert (arm.contrast.n, arm.contrast.left_out) == (5, 1)
    assert arm.mean.value < 2
    assert [d.text for d in findings.deviations] == [
        "ffn=moe, seed 3: task/score is 1e+200, which no average can hold; the pair is left out"
    ]


def test_a_score_that_could_not_be_computed_is_missing(tmp_path: Path) -> None:
    """A metric may be undefined on a trial."""
    stored, table = made(tmp_path, axes={"ffn": ("dense", "moe"), "gate": ("none", "shut")})
    for trial in stored.trials:
        none = trial.arm.startswith("ffn=moe") or trial.seed == 0
        put(table, trial.id, scores(None if none else value(trial), references=REFERENCES))
    findings = conclude(stored, table)
    assert arms(findings)["ffn=moe gate=none"].contrast.n == 0
    assert arms(findings)["ffn=dense gate=shut"].contrast.n == 5
    assert (findings.systems[0].effects, findings.iqm) == (None, None)


def test_direction_flips_better_and_worse(tmp_path: Path) -> None:
    """The same numbers of a metric where smaller is better give the opposite word and the same p."""
    words, ps = [], []
    for higher in (True, False):
        stored, table = made(tmp_path / str(higher))
        fill(table, stored, lambda t: value(t, 0.3), higher=higher)
        verdict = arms(conclude(stored, table))["ffn=moe"].verdict
        words.append(verdict.word)
        ps.append(verdict.p_adjusted)
    assert words == ["better", "worse"]
    assert ps[0] == ps[1]


def test_equal_arms_get_no_verdict(tmp_path: Path) -> None:
    """An A/A study, the same scores in both arms or noise of its own in each, is neither better nor worse."""
    for name, of in {"equal": lambda t: 1 + noise(t.seed) / 10, "apart": lambda t: 1 + noise(t.id) / 10}.items():
        stored, table = made(tmp_path / name)
        fill(table, stored, of)
        verdict = arms(conclude(stored, table))["ffn=moe"].verdict
        assert verdict.word in ("inconclusive", "equivalent"), name
    stored, table = made(tmp_path / "no-margin", analysis__margin=0.0)
    fill(table, stored, lambda t: 1 + noise(t.seed) / 10)
    assert arms(conclude(stored, table))["ffn=moe"].verdict.word == "inconclusive"


SPLITS = {"train": 80, "valid": 10, "test": 20}


@pytest.mark.parametrize("resplit", [True, False])
def test_blocks_that_cut_the_data_anew_are_corrected(tmp_path: Path, resplit: bool) -> None:
    """Overlapping splits widen the interval after Nadeau and Bengio; blocks of other data do not."""
    stored, table = made(tmp_path, blocks=("0", "1", "2"), block_key="data.x", splits_anew=resplit, seeds=(0, 1),
                         splits=SPLITS)  # fmt: skip
    fill(table, stored, lambda t: value(t, 0.1))
    contrast = arms(conclude(stored, table))["ffn=moe"].contrast
    base, own = (column(stored, f"ffn={name}", lambda t: value(t, 0.1)) for name in ("dense", "moe"))
    plain = paired(base, own, larger_is_better=True)
    wide = nadeau_bengio(base, own, n_test=20, n_train=80, larger_is_better=True)
    assert contrast == (wide if resplit else plain)
    assert wide.difference.high > plain.difference.high


def test_scores_by_unit_give_an_interval_for_new_units(tmp_path: Path) -> None:
    """Three or more units are judged as random beside the seeds; a trial that misses one takes it out."""
    stored, table = made(tmp_path)

    def units(trial: Any) -> dict[str, float]:
        own = {f"section {u}": value(trial, 0.1) + 0.1 * noise(trial.seed, u) for u in "abcd"}
        if (trial.arm, trial.seed) == ("ffn=moe", 1):
            own.pop("section c")
        return own

    for trial in stored.trials:
        put(table, trial.id, scores(value(trial, 0.1), units=units(trial)))
    arm = arms(conclude(stored, table))["ffn=moe"]
    names = [f"section {u}" for u in "abcd"]
    rows = [
        [[units(t).get(name, np.nan) for name in names] for t in stored.trials if t.arm == label]
        for label in ("ffn=dense", "ffn=moe")
    ]
    assert arm.units == two_level(*rows)
    assert (arm.units.n_units, arm.units.units_left_out) == (3, 1)


@pytest.mark.parametrize("seeds", [(0,), (0, 1), range(3), range(8)])
def test_few_seeds_are_told(tmp_path: Path, seeds: Any) -> None:
    """Below 3 nothing is tested; below 6 the exact test cannot reach .05, which a reader must know."""
    stored, table = made(tmp_path, seeds=seeds)
    fill(table, stored, lambda t: value(t, 0.1))
    findings = conclude(stored, table)
    told = [w for w in findings.warnings if w.startswith("W-SEEDS")]
    n = len(seeds)
    assert bool(told) == (n < 6)
    assert (arms(findings)["ffn=moe"].verdict.word == "not tested") == (n < 3)
    if n == 1:
        assert told == ["W-SEEDS: 1 seed: nothing can be tested below 3; only dots are shown."]
    if n == 3:
        assert told[0].startswith("W-SEEDS: with 3 seeds the exact sign-flip test cannot go below p = 0.25")


@pytest.mark.parametrize("seed", range(3))
def test_the_order_of_a_plan_changes_no_byte(tmp_path: Path, seed: int) -> None:
    """Trials of a plan in another order, run in another order, give byte-equal findings."""
    axes = {"ffn": ("dense", "moe", "none"), "gate": ("open", "shut")}
    texts = []
    for name in ("one", "other"):
        plan = make(axes=axes, systems=("spatial", "perturb"))
        mix = random.Random(seed)
        if name == "other":
            mix.shuffle(plan.doc["trials"])
            mix.shuffle(plan.identities)
        plan.keep(tmp_path / name / "study")
        stored, table = read(tmp_path / name / "study"), Table(tmp_path / name / "study")
        order = [*stored.trials]
        mix.shuffle(order)
        for trial in order:
            if (trial.arm, trial.seed) == ("ffn=moe gate=open", 1):
                fail(table, trial.id)
                fail(table, trial.id)
            else:
                put(table, trial.id, scores(value(trial), references=REFERENCES), code="abc", seconds_per_step=0.5)
        plain = attrs.asdict(conclude(stored, table))
        for system in plain["systems"]:
            for arm in system["arms"]:
                arm["cost"]["memory"] = None
        texts.append(canonical_json(plain))
    assert texts[0] == texts[1]


def test_two_results_of_one_trial_are_told(tmp_path: Path) -> None:
    """A conflict stands in the deviations; the first result counts."""
    stored, table = made(tmp_path)
    fill(table, stored, value)
    trial = stored.trials[0].id
    (table.folder(trial) / "conflict.2.json").write_bytes((table.folder(trial) / "result.json").read_bytes())
    assert [(d.kind, d.text) for d in conclude(stored, table).deviations] == [
        ("conflict", f"trial {trial} came to two different results")
    ]


def test_a_result_in_another_trials_folder_is_not_averaged(tmp_path: Path) -> None:
    """Whole bytes of another trial are noticed by their digest and count as damaged."""
    stored, table = made(tmp_path)
    fill(table, stored, value)
    one, other = stored.trials[0].id, stored.trials[1].id
    (table.folder(one) / "result.json").write_bytes((table.folder(other) / "result.json").read_bytes())
    findings = conclude(stored, table)
    assert arms(findings)["ffn=moe"].contrast.n == 5
    assert "corrupt" in [d.kind for d in findings.deviations]


def test_results_of_several_codes_and_environments_are_told(tmp_path: Path) -> None:
    """Who ran what is counted; more than one revision or environment is a warning."""
    stored, table = made(tmp_path)
    for trial in stored.trials:
        put(
            table,
            trial.id,
            scores(value(trial)),
            code="a" * 12 if trial.seed else "b" * 12,
            environment=f"cpu {trial.seed > 3}",
        )
    findings = conclude(stored, table)
    assert findings.code == {"a" * 12: 10, "b" * 12: 2}
    told = [w for w in findings.warnings if w.startswith(("W-CODE", "W-ENV"))]
    assert told == [
        "W-CODE: results come from 2 revisions of the code (aaaaaaaaa x 10, bbbbbbbbb x 2); identities agree.",
        "W-ENV: results come from 2 environments (cpu False x 8; cpu True x 4).",
    ]


def test_a_changed_analysis_applies_and_is_a_deviation(tmp_path: Path) -> None:
    """What was appended to the plan decides, and the findings say so."""
    stored, table = made(tmp_path)
    for trial in stored.trials:
        put(table, trial.id, scores(value(trial, 0.1)) + scores(3.0 + trial.seed, key="task/other", higher=False))
    append(
        tmp_path,
        {
            "kind": "analysis",
            "text": "changed",
            "settings": {"analysis.alpha": [0.01, "CLI"]},
            "metrics": {"spatial": "task/other"},
        },
    )
    findings = conclude(read(tmp_path), table)
    assert findings.alpha == 0.01
    assert (findings.systems[0].metric, findings.systems[0].larger_is_better) == ("task/other", False)
    assert [d.text for d in findings.deviations] == ["changed"]
    assert findings.plan == stored.hash


KNOWN = "Scores: task/score, task/twice, more/twice"


@pytest.mark.parametrize(
    ("metric", "said", "text"),
    [
        ("task/scoer", "scoer", "no score of spatial is called 'task/scoer'. Did you mean 'task/score'? " + KNOWN),
        ("task/zzz", "zzz", "no score of spatial is called 'task/zzz'. " + KNOWN),
        ("other/twice", "twice", "metric 'twice' is scored in several tasks; say which: task/twice, more/twice"),
        (
            "other/score",
            "other/score",
            "no score of spatial is called 'other/score'. Did you mean 'task/score'? " + KNOWN,
        ),
    ],
)
def test_a_metric_that_is_no_score_is_told(tmp_path: Path, metric: str, said: str, text: str) -> None:
    """Near matches and all scores are named; a task that the user named is never swapped for another."""
    stored, table = made(tmp_path, metric=metric, analysis__metric=(said,))
    fill(table, stored, lambda t: None)
    own = scores(1.0) + scores(2.0, key="task/twice") + scores(2.0, key="more/twice")
    put(table, stored.trials[0].id, own)
    with pytest.raises(UserError) as caught:
        conclude(stored, table)
    assert str(caught.value) == text


def test_a_metric_without_its_task_finds_the_task(tmp_path: Path) -> None:
    """A bare metric belongs to the system's own task, else to the only one that has it."""
    stored, table = made(tmp_path, metric="headline/score", analysis__metric=("score",))
    fill(table, stored, value)
    assert conclude(stored, table).systems[0].metric == KEY


def test_a_study_that_was_left_while_it_was_planned_is_told(tmp_path: Path) -> None:
    """Findings of half a plan would be findings of another study."""
    _, table = made(tmp_path)
    append(tmp_path, {"kind": "extended", "text": "x", "trials": [["0" * 16, "spatial", "ffn=moe", 9, ""]]})
    with pytest.raises(TableError, match=r"^E-PLAN: .* 1 of 13 trials are not in its table yet"):
        conclude(read(tmp_path), table)


def test_an_arm_that_was_added_later_has_the_pairs_that_it_has(tmp_path: Path) -> None:
    """Arms with other seeds than the rest are compared where both have one, over systems too."""
    plan = make(systems=("spatial", "perturb"))
    plan.keep(tmp_path)
    everything = make(systems=("spatial", "perturb"), axes={"ffn": ("dense", "moe", "none")}, seeds=(0, 1, 2, 3))
    known = {t[0] for t in plan.doc["trials"]}
    fresh = [t for t in everything.doc["trials"] if t[0] not in known]
    arms_of = [a for a in everything.doc["arms"] if a["label"] == "ffn=none"]
    append(
        tmp_path,
        {"kind": "extended", "text": "later", "arms": arms_of, "trials": fresh, "axes": everything.doc["axes"]},
    )
    table = Table(tmp_path)
    table.add(everything.identities)
    stored = read(tmp_path)
    fill(table, stored, value, references=REFERENCES)
    findings = conclude(stored, table)
    assert findings.axes == {"ffn": ("dense", "moe", "none")}
    added = arms(findings)["ffn=none"]
    assert (added.contrast.n, added.contrast.left_out, added.verdict.family_size) == (4, 2, 4)
    assert [one.label for one in findings.over_systems] == ["ffn=moe", "ffn=none"]
    assert findings.iqm.n == {"spatial": 4, "perturb": 4}


def test_an_aliased_fraction_names_what_it_mixes(tmp_path: Path) -> None:
    """The alias table stands in the findings, with the axes' own names."""
    axes = {"a": ("a0", "a1"), "b": ("b0", "b1"), "c": ("c0", "c1")}
    cells = [("a0", "b0", "c0"), ("a0", "b1", "c1"), ("a1", "b0", "c1"), ("a1", "b1", "c0")]
    stored, table = made(tmp_path, axes=axes, cells=cells, design__kind="fraction:C=AB", seeds=range(3))
    fill(table, stored, lambda t: 1 + ("a1" in t.arm) + 0.01 * noise(t.id))
    found = conclude(stored, table).systems[0]
    assert {"a = -b:c", "b = -a:c", "c = -a:b"} <= {*found.aliases}
    assert not any("left out" in line for line in found.aliases)
    # The main effect stands against an interaction that is taken as absent.
    assert {e.term: round(e.estimate.value, 1) for e in found.effects.two_level}["a"] == 1.0


def test_a_fraction_without_all_of_its_cells_says_so(tmp_path: Path) -> None:
    """Where cells are left out, more is mixed than the table of the whole fraction can name."""
    axes = {"a": ("a0", "a1"), "b": ("b0", "b1"), "c": ("c0", "c1")}
    cells = [("a0", "b0", "c0"), ("a0", "b1", "c1"), ("a1", "b0", "c1")]
    idle = [("a=a1 b=b1 c=c0", "excluded", "why")]
    stored, table = made(tmp_path, axes=axes, cells=cells, idle=idle, design__kind="fraction:C=AB", seeds=range(3))
    fill(table, stored, lambda t: 1 + 0.01 * noise(t.id))
    assert conclude(stored, table).systems[0].aliases[-1].startswith("1 cell is left out = ")


def test_power_and_seeds_needed_are_of_the_whole_family(tmp_path: Path) -> None:
    """The power curve has this study's own number of seeds, and more contrasts ask for more seeds."""
    needed = []
    for levels in (("dense", "moe"), ("dense", "moe", "x", "y", "z")):
        stored, table = made(tmp_path / str(len(levels)), axes={"ffn": levels}, seeds=range(7))
        fill(table, stored, lambda t: 1 + 0.05 * noise(t.id))
        findings = conclude(stored, table)
        assert 7 in [point.n for point in findings.systems[0].power]
        needed.append(findings.systems[0].needed)
        assert any(w.startswith("W-POWER: spatial: ") for w in findings.warnings)
    assert needed[1] > needed[0] > 7


def test_arms_that_hardly_differ_need_few_seeds(tmp_path: Path) -> None:
    """Where pairing leaves almost no noise, the effect asked about is found for certain, by the fewest seeds."""
    stored, table = made(tmp_path)
    fill(table, stored, lambda t: 1 + 0.1 * noise(t.seed) + 1e-7 * noise(t.id))
    found = conclude(stored, table).systems[0]
    assert found.needed == 3
    assert {point.power for point in found.power} == {1.0}


EDGES = {
    "analysis__power": (0.5, 0.999), "analysis__alpha": (1e-6, 0.499), "analysis__mde": (1e-6, 10.0),
    "analysis__margin": (0.0, 0.999),
}  # fmt: skip
SORTS = {
    "usual": lambda t: 1 + 0.1 * noise(t.id), "of both signs": lambda t: noise(t.id), "constant": lambda t: 1.0,
    "zero": lambda t: 0.0, "tiny": lambda t: 1e-300 * (2 + noise(t.id) / 10), "huge": lambda t: 1e99 * noise(t.id) / 9,
    "few": lambda t: 1 + noise(t.id) / 9 if t.seed < 2 else None,
}  # fmt: skip


@pytest.mark.parametrize("sort", SORTS)
@pytest.mark.parametrize(("key", "end"), [(key, end) for key, ends in EDGES.items() for end in ends])
def test_no_setting_and_no_score_breaks_a_report(tmp_path: Path, sort: str, key: str, end: float) -> None:
    """At the ends of what each setting may be, scores of every sort give findings that are JSON."""
    axes = {"ffn": ("dense", "moe", "none"), "gate": ("open", "shut")}
    stored, table = made(tmp_path, axes=axes, seeds=range(4), **{key: end})
    fill(table, stored, SORTS[sort], references={"mean": 0.0, "ceiling": 1.0})
    assert json.loads(json.dumps(attrs.asdict(conclude(stored, table)), allow_nan=False))["counts"]["planned"] == 24


def test_the_end_of_an_attempt_without_a_message_is_told_by_its_kind(tmp_path: Path) -> None:
    """A sealed file of another hand does not break the report."""
    stored, table = made(tmp_path)
    mine = claim(table, stored.trials[0].id)
    end(table, mine.trial, mine.attempt, "timeout", {})
    assert arms(conclude(stored, table))["ffn=dense"].outcomes[0].message == "timeout"
