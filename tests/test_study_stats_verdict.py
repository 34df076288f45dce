"""Verdicts: what p values, margins and power allow to be said, and the published figures."""

from __future__ import annotations

import attrs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower
from statsmodels.stats.weightstats import ttost_paired

from core.study.stats import (
    Margin,
    detectable,
    equivalence,
    holm,
    judge,
    nadeau_bengio,
    paired,
    power_curve,
    power_of,
    seeds_needed,
)

TIGHT = {"rel": 1e-10, "abs": 1e-12}
SIXTYFOURTHS = st.integers(-2_000, 2_000).map(lambda i: i / 64)
ARMS = st.integers(0, 7).flatmap(
    lambda n: st.lists(st.lists(SIXTYFOURTHS, min_size=n, max_size=n), min_size=2, max_size=5)
)
PROBABILITIES = st.lists(st.floats(0, 1), max_size=12)
TURNED = {"better": "worse", "worse": "better"}


def arm(effect: float, sd: float, n: int = 6, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A baseline and an arm whose differences have exactly this mean and standard deviation."""
    generator = np.random.default_rng(seed)
    base, noise = generator.normal(1.0, 0.1, n), generator.normal(size=n)
    return base, base + effect + sd * (noise - noise.mean()) / noise.std(ddof=1)


@given(p=PROBABILITIES)
@settings(deadline=None, max_examples=6)  # statsmodels takes a tenth of a second
def test_holm_equals_statsmodels(p: list[float]) -> None:
    """Adjusted p values are those of statsmodels; None counts as a test that was not significant."""
    if p:
        assert holm(p) == pytest.approx(multipletests(p, method="holm")[1], **TIGHT)
    with_holes = holm([None, *p, None])
    assert with_holes[0] is None
    assert with_holes[-1] is None
    truth = multipletests([*p, 1.0, 1.0], method="holm")[1][:-2]
    assert with_holes[1:-1] == pytest.approx(truth, **TIGHT)
    assert holm(p, len(p) + 2) == with_holes[1:-1]


def test_holm_refuses_what_is_no_family() -> None:
    """A family smaller than its tests, and numbers that are no probability, are refused."""
    with pytest.raises(ValueError, match="the family has 1 members, but 2"):
        holm([0.1, 0.2], 1)
    for p in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="lies in"):
            holm([p])


@pytest.mark.parametrize(("effect", "sd"), [(0.0, 0.02), (0.01, 0.02), (-0.02, 0.01), (0.2, 0.02)])
@pytest.mark.parametrize("margin", [0.01, 0.05])
def test_equivalence_equals_statsmodels(effect: float, sd: float, margin: float) -> None:
    """Two one-sided paired t tests, on scores for an absolute margin and on logarithms for a relative one."""
    base, other = arm(effect, sd)
    contrast = paired(base, other, larger_is_better=True)
    truth = ttost_paired(other, base, -margin, margin)[0]
    assert equivalence(contrast, Margin(value=margin, relative=False)) == pytest.approx(truth, **TIGHT)
    truth = ttost_paired(np.log(other), np.log(base), np.log(1 - margin), np.log(1 + margin))[0]
    assert equivalence(contrast, Margin(value=margin, relative=True)) == pytest.approx(truth, **TIGHT)


def test_equivalence_of_equal_scores_is_as_sure_as_its_signs() -> None:
    """Equal differences inside the margin give 1/2^n, outside it 1; relative margins need positive scores."""
    scores = np.linspace(0.1, 0.9, 6)
    close, relative = Margin(value=0.02, relative=False), Margin(value=0.02, relative=True)
    assert equivalence(paired(scores, scores, larger_is_better=True), close) == 1 / 2**6
    assert equivalence(paired(scores, scores + 0.05, larger_is_better=True), close) == 1.0
    redrawn = nadeau_bengio(scores, scores, n_test=1, n_train=4, larger_is_better=True)
    assert equivalence(redrawn, close) == 1.0
    assert equivalence(paired(scores[:2], scores[:2], larger_is_better=True), close) is None
    assert equivalence(paired(-scores, scores, larger_is_better=True), relative) is None


@pytest.mark.parametrize(
    ("value", "relative"), [(0.0, False), (-1.0, False), (np.inf, False), (np.nan, True), (1.0, True)]
)
def test_a_margin_that_nothing_or_everything_meets_is_refused(value: float, relative: bool) -> None:
    """Margins are above 0 and finite; relative ones below 1."""
    with pytest.raises(ValueError, match="margin must be"):
        Margin(value=value, relative=relative)


def test_each_word_is_said_where_it_is_due() -> None:
    """better, worse, equivalent, inconclusive and not tested, in the direction of the metric."""
    cases = [arm(0.2, 0.02), arm(-0.2, 0.02), arm(0.001, 0.002), arm(0.02, 0.05), arm(0.2, 0.02, n=2)]
    margin = Margin(value=0.02, relative=False)
    said = judge([paired(*case, larger_is_better=True) for case in cases], margin=margin)
    assert [v.word for v in said] == ["better", "worse", "equivalent", "inconclusive", "not tested"]
    assert {v.family_size for v in said} == {5}
    turned = judge([paired(*case, larger_is_better=False) for case in cases], margin=margin)
    assert [v.word for v in turned] == ["worse", "better", "equivalent", "inconclusive", "not tested"]
    without = judge([paired(*case, larger_is_better=True) for case in cases])
    assert [v.word for v in without] == ["better", "worse", "inconclusive", "inconclusive", "not tested"]
    assert judge([]) == []


def test_an_effect_smaller_than_the_margin_is_better_by_less_than_matters() -> None:
    """A sure but small gain stays "better", and says that it lies within the margin."""
    (verdict,) = judge([paired(*arm(0.01, 0.001), larger_is_better=True)], margin=Margin(value=0.02, relative=False))
    assert (verdict.word, verdict.within_margin) == ("better", True)
    assert "by less than the margin" in verdict.why


@given(rows=ARMS, alpha=st.sampled_from([0.05, 0.2, 0.5]))
@settings(deadline=None, max_examples=60)
def test_direction_turns_better_and_worse_round_and_nothing_else(rows: list, alpha: float) -> None:
    """Turning the metric's direction, or its sign, exchanges better and worse."""
    base, *arms = rows
    margin = Margin(value=2.0, relative=False)

    def words(factor: int, larger: bool) -> list[str]:
        scores = [paired(factor * np.array(base), factor * np.array(a), larger_is_better=larger) for a in arms]
        return [v.word for v in judge(scores, alpha=alpha, margin=margin)]

    upright = words(1, True)
    assert words(1, False) == [TURNED.get(word, word) for word in upright]
    assert words(-1, False) == upright


@given(rows=ARMS, order=st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=40)
def test_order_of_arms_changes_no_verdict(rows: list, order) -> None:
    """Each arm has the same verdict wherever it stands in the list."""
    base, *arms = rows
    contrasts = [paired(base, a, larger_is_better=True) for a in arms]
    said = judge(contrasts, alpha=0.3)
    places = list(range(len(arms)))
    order.shuffle(places)
    assert judge([contrasts[i] for i in places], alpha=0.3) == [said[i] for i in places]


@given(rows=ARMS)
@settings(deadline=None, max_examples=40)
def test_what_was_planned_counts_though_it_did_not_run(rows: list) -> None:
    """A larger family never makes a verdict surer; arms with too few pairs count like absent ones."""
    base, *arms = rows
    contrasts = [paired(base, a, larger_is_better=True) for a in arms]
    dots = paired([], [], larger_is_better=True)
    few, many = judge(contrasts), judge(contrasts, family_size=len(arms) + 3)
    assert many == judge([*contrasts, dots, dots, dots])[: len(arms)]
    for a, b in zip(few, many, strict=True):
        assert a.p_adjusted is None or b.p_adjusted >= a.p_adjusted >= a.p


def test_inconclusive_says_what_would_have_been_missed() -> None:
    """The smallest detectable effect is that of alpha over the family, wider where splits are redrawn."""
    base, other = arm(0.01, 0.05)
    plain = paired(base, other, larger_is_better=True)
    redrawn = nadeau_bengio(base, other, n_test=1, n_train=4, larger_is_better=True)
    first, second = judge([plain, redrawn], family_size=4)
    assert first.word == "inconclusive"
    assert first.detectable == pytest.approx(detectable(6, 0.05, 0.05 / 4), **TIGHT)
    assert first.detectable_relative == pytest.approx(first.detectable / np.mean(base), **TIGHT)
    assert f"{first.detectable_relative:.1%} of the baseline's mean" in first.why
    assert second.detectable == pytest.approx(first.detectable * np.sqrt(1 + 6 / 4), **TIGHT)


def test_equal_pairs_have_no_smallest_detectable_effect() -> None:
    """Without any spread no power can be computed, and the verdict says so."""
    (verdict,) = judge([paired([1.0, 2.0, 3.0], [1.0, 2.0, 3.0], larger_is_better=True)])
    assert (verdict.word, verdict.p_adjusted, verdict.detectable, verdict.detectable_relative) == (
        "inconclusive",
        1.0,
        None,
        None,
    )
    assert "says nothing about the spread" in verdict.why


@pytest.mark.parametrize("n", [3, 4, 5, 6, 7])
def test_equal_signs_alone_are_significant_only_where_the_exact_test_can_be(n: int) -> None:
    """A constant gain is "better" from 6 seeds on, where 2/2^n is at most .05."""
    base = np.linspace(0.1, 0.9, n)
    (verdict,) = judge([paired(base, base + 0.05, larger_is_better=True)])
    assert verdict.exact_possible == (n >= 6)
    assert verdict.word == ("better" if n >= 6 else "inconclusive")


def test_judge_refuses_what_it_cannot_correct_for() -> None:
    """alpha outside (0, 1) and families smaller than the list are refused."""
    contrast = paired(*arm(0.1, 0.1), larger_is_better=True)
    with pytest.raises(ValueError, match="alpha"):
        judge([contrast], alpha=0)
    with pytest.raises(ValueError, match="family"):
        judge([contrast, contrast], family_size=1)
    assert all(
        isinstance(v, bool | int | float | str | type(None)) for v in attrs.asdict(judge([contrast])[0]).values()
    )


def test_published_smallest_detectable_effects() -> None:
    """In standard deviations of the difference, at 80 % power."""
    seeds = (3, 4, 5, 6, 8, 10, 15, 20, 30)
    assert [round(detectable(n, 1.0), 2) for n in seeds] == [3.26, 2.13, 1.68, 1.43, 1.16, 1.00, 0.78, 0.66, 0.53]
    assert [round(detectable(n, 1.0, alpha=0.01), 2) for n in (5, 10)] == [2.63, 1.33]


@pytest.mark.parametrize(
    ("percent", "needed"),
    [
        (1, (3, 3, 3, 3, 3, 4, 4)),
        (2, (5, 5, 4, 3, 3, 6, 6)),
        (3, (8, 7, 6, 4, 3, 8, 9)),
        (5, (18, 14, 10, 7, 4, 16, 18)),
        (8, (43, 33, 23, 13, 7, 34, 39)),
        (10, (65, 50, 34, 18, 9, 51, 58)),
        (15, (144, 108, 73, 38, 17, 109, 124)),
    ],
)
def test_published_seeds_needed_for_a_change_of_five_percent(percent: int, needed: tuple[int, ...]) -> None:
    """By the noise of one arm and the correlation between arms, then at rho .5 for families of 5 and 10."""
    columns = [(0.0, 1), (0.25, 1), (0.5, 1), (0.75, 1), (0.9, 1), (0.5, 5), (0.5, 10)]
    found = [seeds_needed(5.0, percent * np.sqrt(2 * (1 - rho)), 0.05 / m) for rho, m in columns]
    assert found == list(needed)


@pytest.mark.parametrize("n", [3, 6, 20])
@pytest.mark.parametrize("effect", [-1.4, 0.1, 0.9])
def test_power_equals_statsmodels(n: int, effect: float) -> None:
    """The chance of significance in the effect's own direction."""
    truth = TTestPower().power(abs(effect) / 0.7, n, 0.025, alternative="larger")
    assert power_of(n, effect, 0.7) == pytest.approx(truth, **TIGHT)


@given(sd=st.floats(0.01, 100), alpha=st.floats(0.001, 0.2), power=st.floats(0.3, 0.99), n=st.integers(3, 60))
@settings(deadline=None, max_examples=40)
def test_power_detectable_effect_and_seeds_agree(sd: float, alpha: float, power: float, n: int) -> None:
    """The detectable effect has the power asked for, and needs the seeds that it was computed for and not one fewer."""
    effect = detectable(n, sd, alpha, power)
    assert power_of(n, effect, sd, alpha) == pytest.approx(power, abs=1e-9)
    assert seeds_needed(effect * (1 + 1e-9), sd, alpha, power) == n
    (point,) = power_curve([n], sd=sd, alpha=alpha, power=power, effect=effect)
    assert (point.n, point.detectable, point.power) == (n, effect, power_of(n, effect, sd, alpha))
    assert power_curve([n], sd=sd)[0].power is None


def test_power_refuses_what_has_no_answer() -> None:
    """No effect, no spread, too few seeds, and effects that need more than a million seeds."""
    with pytest.raises(ValueError, match="the size of effect must be a finite number above 0"):
        seeds_needed(0.0, 1.0)
    with pytest.raises(ValueError, match="more than 1,000,000 seeds"):
        seeds_needed(1e-6, 1.0)
    with pytest.raises(ValueError, match="at least 3 seeds"):
        detectable(2, 1.0)
    with pytest.raises(ValueError, match="sd must be"):
        power_of(5, 1.0, 0.0)
    with pytest.raises(ValueError, match="effect must be finite"):
        power_of(5, float("nan"), 1.0)
    with pytest.raises(ValueError, match="power must be above alpha"):
        detectable(5, 1.0, alpha=0.5, power=0.4)
