"""One arm against the baseline: the paired statistics, their laws, and what they say where there is little to say."""

from __future__ import annotations

import attrs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

from core.study.stats import Contrast, Estimate, futile, nadeau_bengio, paired, sign_flip

TIGHT = {"rel": 1e-10, "abs": 1e-12}
# Sixty-fourths add and shift without rounding, so that laws hold exactly and not by luck.
SIXTYFOURTHS = st.integers(-2_000, 2_000).map(lambda i: i / 64)
PAIRS = st.lists(st.tuples(SIXTYFOURTHS, SIXTYFOURTHS), max_size=9)
POSITIVE = st.lists(st.tuples(st.floats(0.1, 10), st.floats(0.1, 10)), min_size=3, max_size=9)
WITH_HOLES = st.lists(st.tuples(st.none() | SIXTYFOURTHS, st.none() | SIXTYFOURTHS), max_size=9)


def noisy(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    base = generator.normal(1.0, 0.1, n)
    return base, base + generator.normal(0.03, 0.05, n)


def near(number: float | None, **tolerance: float) -> object:
    return None if number is None else pytest.approx(number, **(tolerance or TIGHT))


def split(pairs: list) -> tuple[list, list]:
    return [b for b, _ in pairs], [a for _, a in pairs]


@pytest.mark.parametrize("n", [3, 5, 6, 12, 40])
@pytest.mark.parametrize("alpha", [0.05, 0.01])
def test_paired_t_and_its_interval_equal_scipy(n: int, alpha: float) -> None:
    """t, p and interval are scipy's paired t test; the relative effect is the same test on logarithms."""
    base, arm = noisy(n)
    found = paired(base, arm, larger_is_better=True, alpha=alpha)
    truth = stats.ttest_rel(arm, base)
    ends = truth.confidence_interval(1 - alpha)
    assert found.t == pytest.approx(truth.statistic, **TIGHT)
    assert found.p == pytest.approx(truth.pvalue, **TIGHT)
    assert attrs.astuple(found.difference) == pytest.approx(((arm - base).mean(), ends.low, ends.high), **TIGHT)
    assert found.error == pytest.approx(stats.sem(arm - base), **TIGHT)
    ends = stats.ttest_rel(np.log(arm), np.log(base)).confidence_interval(1 - alpha)
    centre = stats.gmean(arm) / stats.gmean(base)
    assert attrs.astuple(found.relative) == pytest.approx(
        (centre - 1, np.expm1(ends.low), np.expm1(ends.high)), **TIGHT
    )
    assert found.rho == pytest.approx(stats.pearsonr(base, arm).statistic, **TIGHT)
    gain = (np.var(base) + np.var(arm)) / np.var(arm - base)
    assert found.pairing_gain == pytest.approx(gain, **TIGHT)


@pytest.mark.parametrize("n", [3, 4, 6, 9])
@pytest.mark.parametrize("ties", [False, True])
def test_sign_flip_p_equals_scipy_and_respects_its_floor(n: int, ties: bool) -> None:
    """The exact p is scipy's permutation test over all sign patterns, ties included; its floor is 2/2^n."""
    base, arm = noisy(n, seed=n)
    difference = np.round((arm - base) * 20) if ties else arm - base
    truth = stats.permutation_test(
        (difference,), lambda x, axis: np.mean(x, axis=axis), permutation_type="samples", n_resamples=np.inf
    )
    found = sign_flip(difference)
    assert found.exact
    assert found.p == pytest.approx(truth.pvalue, **TIGHT)
    assert found.p >= found.floor == 2 / 2**n
    assert sign_flip(np.arange(1.0, n + 1)).p == found.floor


def test_beyond_sixteen_pairs_drawn_patterns_agree_with_all_of_them() -> None:
    """Drawn sign patterns give the exact p within Monte Carlo error, never 0, and the same number each time."""
    difference = np.array(noisy(17, seed=3)[1]) - 1.0
    sums = np.zeros(1)
    for size in difference:
        sums = np.concatenate([sums + size, sums - size])
    exact = np.mean(np.abs(sums) >= abs(difference.sum()) - 1e-12)
    found = sign_flip(difference)
    assert not found.exact
    assert found.p == pytest.approx(exact, abs=4 * np.sqrt(exact * (1 - exact) / 20_000))
    assert found.p == sign_flip(difference[::-1]).p
    assert sign_flip(np.arange(1.0, 60.0)).p == sign_flip(np.arange(1.0, 60.0)).floor == 1 / 20_000


@pytest.mark.parametrize(("wins", "ties", "losses"), [(3, 0, 0), (4, 1, 1), (0, 0, 8), (0, 3, 0), (2, 2, 9)])
def test_share_of_seeds_that_improve_has_wilsons_interval(wins: int, ties: int, losses: int) -> None:
    """Ties count by half, and the interval is Wilson's."""
    arm = np.concatenate([np.full(wins, 1.0), np.zeros(ties), np.full(losses, -1.0)]) * np.arange(
        1, wins + ties + losses + 1
    )
    found = paired(np.zeros_like(arm), arm, larger_is_better=True)
    low, high = proportion_confint(wins + ties / 2, arm.size, method="wilson")
    assert attrs.astuple(found.improve) == pytest.approx(((wins + ties / 2) / arm.size, low, high), **TIGHT)


@given(pairs=PAIRS, shift=SIXTYFOURTHS)
@settings(deadline=None, max_examples=60)
def test_shifting_all_scores_shifts_means_alone(pairs: list, shift: float) -> None:
    """Adding one number to every score moves both means and nothing that is about differences."""
    base, arm = split(pairs)
    first = paired(base, arm, larger_is_better=True)
    second = paired([b + shift for b in base], [a + shift for a in arm], larger_is_better=True)
    assert (first.baseline_mean is None) == (not pairs)
    if pairs:
        assert second.baseline_mean == pytest.approx(first.baseline_mean + shift, **TIGHT)
    for name in ("t", "p", "p_exact", "sd", "rho", "pairing_gain"):
        assert getattr(second, name) == near(getattr(first, name), rel=1e-9, abs=1e-9), name
    assert second.improve == first.improve


@given(pairs=PAIRS)
@settings(deadline=None, max_examples=60)
def test_exchanging_arm_and_baseline_negates_the_effect_and_keeps_p(pairs: list) -> None:
    """Arm and baseline exchanged: the difference changes sign, ends change place, tests stay."""
    base, arm = split(pairs)
    first, second = paired(base, arm, larger_is_better=True), paired(arm, base, larger_is_better=True)
    for name in ("n", "p", "p_exact", "p_floor", "rho", "pairing_gain"):
        assert getattr(second, name) == near(getattr(first, name)), name
    if first.difference is not None:
        assert second.difference.value == -first.difference.value
        assert second.improve.value == pytest.approx(1 - first.improve.value, **TIGHT)
        if first.difference.low is not None:
            assert second.difference.low == pytest.approx(-first.difference.high, **TIGHT)


@given(pairs=POSITIVE)
@settings(deadline=None, max_examples=40)
def test_relative_effects_are_reciprocal(pairs: list) -> None:
    """1 + the relative effect of arm over baseline is one over that of baseline over arm."""
    base, arm = split(pairs)
    first, second = paired(base, arm, larger_is_better=True).relative, paired(arm, base, larger_is_better=True).relative
    assert (1 + first.value) * (1 + second.value) == pytest.approx(1, **TIGHT)


@given(pairs=PAIRS)
@settings(deadline=None, max_examples=40)
def test_direction_of_the_metric_changes_only_what_counts_as_improvement(pairs: list) -> None:
    """Whether larger is better turns the share of improved seeds round and touches nothing else."""
    base, arm = split(pairs)
    first, second = paired(base, arm, larger_is_better=True), paired(base, arm, larger_is_better=False)
    same = attrs.evolve(second, larger_is_better=True, improve=first.improve)
    assert same == first
    if pairs:
        assert second.improve.value == pytest.approx(1 - first.improve.value, **TIGHT)


@given(pairs=WITH_HOLES, order=st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=60)
def test_order_of_seeds_changes_nothing(pairs: list, order) -> None:
    """Seeds in any order give the same record to the last bit, with holes too."""
    mixed = list(pairs)
    order.shuffle(mixed)
    assert paired(*split(mixed), larger_is_better=True) == paired(*split(pairs), larger_is_better=True)


@given(pairs=WITH_HOLES)
@settings(deadline=None, max_examples=60)
def test_only_complete_pairs_count_and_the_rest_are_told(pairs: list) -> None:
    """A seed that misses either score leaves no trace but in `left_out`; no field is NaN or infinite."""
    complete = [(b, a) for b, a in pairs if b is not None and a is not None]
    found = paired(*split(pairs), larger_is_better=False)
    assert found == attrs.evolve(paired(*split(complete), larger_is_better=False), left_out=len(pairs) - len(complete))
    assert found.n == len(complete)
    assert found.p_exact is None or found.p_exact >= found.p_floor
    check_plain(found)


def check_plain(record: object) -> None:
    for value in attrs.asdict(record).values():
        for number in value.values() if isinstance(value, dict) else [value]:
            assert type(number) in (bool, int, float, type(None), str)
            assert number is None or isinstance(number, str) or np.isfinite(number)


@pytest.mark.parametrize("n", [0, 1, 2])
def test_below_three_pairs_there_are_dots_and_no_test(n: int) -> None:
    """Up to two pairs give means and a difference, no interval and no p."""
    found = paired([1.0, 2.0][:n], [2.0, 5.0][:n], larger_is_better=True)
    assert (found.n, found.p, found.p_exact, found.p_floor, found.rho) == (n, None, None, None, None)
    assert found.difference == (Estimate(value=[0, 1.0, 2.0][n]) if n else None)
    assert found.sd == (pytest.approx(2**0.5) if n == 2 else None)


def test_equal_scores_are_no_evidence_of_a_difference() -> None:
    """An arm that equals the baseline in every seed has p = 1 and no interval."""
    found = paired([0.1, 0.2, 0.3, 0.4], [0.1, 0.2, 0.3, 0.4], larger_is_better=True)
    assert (found.p, found.p_exact, found.sd, found.t, found.constant) == (1.0, 1.0, 0.0, None, True)
    assert found.difference == Estimate(value=0.0)
    assert found.improve.value == 0.5


@pytest.mark.parametrize("n", [3, 6, 20])
def test_a_constant_difference_proves_no_more_than_its_signs_do(n: int) -> None:
    """Differences that are all one number, up to rounding, have the sign-flip test's floor as p, and no interval."""
    base = np.linspace(0.1, 0.9, n)
    found = paired(base, base + 0.05, larger_is_better=True)
    assert found.constant
    assert found.p == found.p_floor == max(2 / 2**n, 1 / 20_000)
    assert (found.t, found.difference.low, found.pairing_gain) == (None, None, None)


def test_scores_of_zero_or_below_have_no_relative_effect() -> None:
    """One score at 0 leaves the absolute effect alone."""
    found = paired([0.0, 1.0, 2.0, 3.0], [1.0, 2.5, 3.0, 4.0], larger_is_better=True)
    assert (found.relative, found.relative_sd) == (None, None)
    assert found.p is not None


@given(
    base=st.lists(st.floats(-1e100, 1e100), min_size=4, max_size=4),
    arm=st.lists(st.floats(-1e100, 1e100), min_size=4, max_size=4),
)
@settings(deadline=None, max_examples=150)
def test_scores_of_any_size_give_finite_numbers(base: list[float], arm: list[float]) -> None:
    """From the smallest float to 1e100 nothing overflows into NaN or infinity."""
    check_plain(paired(base, arm, larger_is_better=True))
    check_plain(paired(np.abs(base) + 5e-324, np.abs(arm) + 5e-324, larger_is_better=True))


@pytest.mark.parametrize(
    ("base", "arm", "words"),
    [
        ([1.0, 2.0], [1.0], "base_S has 2 scores and arm_S 1"),
        ([1.0, np.inf], [1.0, 2.0], "infinite"),
        ([[1.0]], [[1.0]], "must have 1 axes"),
        (["a"], [1.0], "must hold numbers"),
        (["1"], [1.0], "must hold numbers"),
        ([True, None], [1.0, 2.0], "must hold numbers"),
    ],
)
def test_scores_that_cannot_be_compared_are_refused(base: list, arm: list, words: str) -> None:
    """Lengths that differ, infinite scores, wrong shapes and words end in one clear sentence."""
    with pytest.raises(ValueError, match=words):
        paired(base, arm, larger_is_better=True)
    with pytest.raises(ValueError, match="alpha must lie between 0 and 1"):
        paired([1.0], [1.0], larger_is_better=True, alpha=1.0)


def test_redrawn_splits_widen_the_interval_by_nadeau_and_bengio() -> None:
    """The variance of the mean is sd^2 (1/n + n_test/n_train); dependent pairs have no sign-flip test."""
    base, arm = noisy(10)
    d = arm - base
    found = nadeau_bengio(base, arm, n_test=200, n_train=800, larger_is_better=True)
    error = np.sqrt(d.var(ddof=1) * (1 / 10 + 200 / 800))
    assert found.error == pytest.approx(error, **TIGHT)
    assert found.t == pytest.approx(d.mean() / error, **TIGHT)
    assert found.p == pytest.approx(2 * stats.t.sf(abs(found.t), 9), **TIGHT)
    assert found.difference.high == pytest.approx(d.mean() + stats.t.ppf(0.975, 9) * error, **TIGHT)
    assert (found.p_exact, found.p_floor, found.exact) == (None, None, None)
    assert nadeau_bengio(base, base + 0.5, n_test=1, n_train=4, larger_is_better=True).p == 1.0
    with pytest.raises(ValueError, match="n_train must be a finite number above 0"):
        nadeau_bengio(base, arm, n_test=200, n_train=0, larger_is_better=True)


def behind(contrast: Contrast) -> float:
    return -contrast.t if contrast.larger_is_better else contrast.t


@given(pairs=PAIRS, larger=st.booleans())
@settings(deadline=None, max_examples=60)
def test_an_arm_is_stopped_for_being_worse_and_for_nothing_else(pairs: list, larger: bool) -> None:
    """An arm stops just where its paired mean is worse by more than 1.5 standard errors; never where better."""
    contrast, found = paired(*split(pairs), larger_is_better=larger), futile(*split(pairs), larger)
    assert found.stop == (contrast.t is not None and behind(contrast) > 1.5)
    if found.stop:
        assert (found.difference < 0) == larger
        assert not futile(*split(pairs), not larger).stop
    check_plain(found)
