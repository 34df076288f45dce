"""Noise floor, several tasks, interquartile means, seeds by units: oracles, laws and missing scores."""

from __future__ import annotations

import subprocess
import sys

import attrs
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.formula.api import ols
from statsmodels.stats.anova import anova_lm

from core.study.stats import Estimate, Scale, iqm, noise_floor, over_tasks, paired, two_level

TIGHT = {"rel": 1e-10, "abs": 1e-12}
UP, DOWN = Scale(trivial=0.5, best=1.0), Scale(trivial=4.0, best=0.0)


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(1.0, 0.1, shape)


@pytest.mark.parametrize(("n", "m"), [(6, 6), (3, 8), (2, 2)])
def test_noise_floor_equals_scipys_two_sample_t(n: int, m: int) -> None:
    """The floor is half the width of scipy's pooled two-sample interval; missing runs are counted."""
    first, second = draw(n), draw(m, seed=1)
    found = noise_floor([*first, None], [np.nan, *second])
    truth = stats.ttest_ind(second, first)
    ends = truth.confidence_interval()
    assert (found.n_first, found.n_second, found.left_out) == (n, m, 2)
    assert attrs.astuple(found.difference) == pytest.approx(
        (second.mean() - first.mean(), ends.low, ends.high), **TIGHT
    )
    assert found.floor == pytest.approx((ends.high - ends.low) / 2, **TIGHT)
    assert found.p == pytest.approx(truth.pvalue, **TIGHT)
    ends = stats.ttest_ind(np.log(second), np.log(first)).confidence_interval()
    half = (ends.high - ends.low) / 2
    assert found.floor_relative == pytest.approx(np.expm1(half), **TIGHT)
    assert found.band_relative == pytest.approx((np.expm1(-half), np.expm1(half)), **TIGHT)


def test_noise_floor_of_little_or_no_noise() -> None:
    """Equal scores have a floor of 0 and no test; one score a block has none; scores at 0 have no relative floor."""
    equal = noise_floor([0.3, 0.3], [0.3, 0.3])
    assert (equal.floor, equal.floor_relative, equal.p, equal.difference) == (0.0, 0.0, None, Estimate(value=0.0))
    single = noise_floor([0.3, 0.2], [0.4])
    assert (single.floor, single.sd, single.difference) == (None, None, Estimate(value=pytest.approx(0.15)))
    assert noise_floor([], [0.4]).difference is None
    assert noise_floor([0.0, 1.0], [1.0, 2.0]).floor_relative is None
    assert noise_floor([0.0, 1.0], [1.0, 2.0]).band_relative is None


@pytest.mark.parametrize(("n", "m"), [(6, 6), (3, 8)])
def test_two_tasks_give_welchs_test(n: int, m: int) -> None:
    """Mean, p and degrees of freedom are those of Welch's test of one task's differences against minus the other's."""
    base = {"up": draw(n), "down": draw(m, seed=1)}
    arm = {"up": draw(n, seed=2), "down": draw(m, seed=3)}
    found = over_tasks(base, arm, {"up": UP, "down": DOWN})
    up, down = (arm["up"] - base["up"]) / 0.5, (arm["down"] - base["down"]) / -4.0
    truth = stats.ttest_ind(up, -down, equal_var=False)
    ends = truth.confidence_interval()
    assert attrs.astuple(found.mean) == pytest.approx(
        ((up.mean() + down.mean()) / 2, ends.low / 2, ends.high / 2), **TIGHT
    )
    assert (found.df, found.p) == pytest.approx((truth.df, truth.pvalue), **TIGHT)
    assert found.effects["down"].value == pytest.approx(down.mean(), **TIGHT)


def test_one_task_gives_the_paired_t_test() -> None:
    """Over a single task of scale 0 to 1 everything is `paired`."""
    base, arm = draw(5), draw(5, seed=1)
    found = over_tasks({"t": base}, {"t": arm}, {"t": Scale(trivial=0, best=1)})
    truth = paired(base, arm, larger_is_better=True)
    assert attrs.astuple(found.mean) == pytest.approx(attrs.astuple(truth.difference), **TIGHT)
    assert found.p == pytest.approx(truth.p, **TIGHT)


def test_a_task_with_too_few_pairs_leaves_no_mean() -> None:
    """A mean over fewer tasks than planned would be another question, so there is none, and the task is named."""
    base = {"t": [1.0, 2.0, 3.0, 4.0], "u": [1.0, None, 2.0, None]}
    arm = {"t": [1.5, 2.0, 3.5, None], "u": [1.5, 2.0, 3.0, 4.0]}
    found = over_tasks(base, arm, {"t": UP, "u": UP})
    assert (found.without, found.mean, found.p, found.left_out) == (("u",), None, None, 3)
    assert found.effects["u"] == Estimate(value=pytest.approx(1.5))
    same = over_tasks({"t": base["t"]}, {"t": base["t"]}, {"t": UP})
    assert (same.mean, same.p, same.df) == (Estimate(value=0.0), None, None)


@pytest.mark.parametrize(("tasks", "n"), [(1, 6), (4, 5), (3, 3)])
def test_interquartile_mean_equals_scipys(tasks: int, n: int) -> None:
    """The mean over all scaled scores without the upper and lower quarter."""
    scores = draw(2, tasks, n)
    found = iqm(
        {arm: {str(d): scores[a, d] for d in range(tasks)} for a, arm in enumerate("xy")},
        {str(d): UP for d in range(tasks)},
        baseline="x",
    )
    truth = [stats.trim_mean((s - 0.5) / 0.5, 0.25, axis=None) for s in scores]
    assert [found.means[arm].value for arm in "xy"] == pytest.approx(truth, **TIGHT)
    assert found.differences["y"].value == pytest.approx(truth[1] - truth[0], **TIGHT)
    assert found.means["x"].low < found.means["x"].value < found.means["x"].high
    assert found.label == "descriptive"


def test_bootstrap_keeps_arms_paired() -> None:
    """An arm that is a constant above the baseline has no spread in its difference, however noisy both are."""
    base = {"t": draw(6), "u": draw(6, seed=1)}
    arm = {task: scores + 0.1 for task, scores in base.items()}
    found = iqm({"base": base, "arm": arm}, {"t": UP, "u": UP}, baseline="base")
    ends = found.differences["arm"]
    assert ends.low == pytest.approx(ends.high, abs=1e-12) or ends.low is None
    assert found.means["arm"].high - found.means["arm"].low > 0.1


def test_interquartile_bootstrap_covers_what_percentile_intervals_cover() -> None:
    """For 10 seeds on 4 tasks the percentile interval of a difference covers about 92 % of true differences, not 95."""
    generator = np.random.default_rng(5)
    hits, studies = 0, 400
    for _ in range(studies):
        scores = generator.normal(size=(2, 4, 10))
        found = iqm(
            {arm: {str(d): scores[a, d] for d in range(4)} for a, arm in enumerate("xy")},
            {str(d): Scale(trivial=0, best=1) for d in range(4)},
            baseline="x",
            draws=400,
        )
        hits += found.differences["y"].low <= 0 <= found.differences["y"].high
    assert 0.87 < hits / studies < 0.97


@given(order=st.permutations(range(6)))
@settings(deadline=None, max_examples=10)
def test_order_of_seeds_and_arms_changes_no_interquartile_mean(order: list[int]) -> None:
    """The bootstrap draws from its own generator over seeds in an order of their own."""
    x, y = draw(6), draw(6, seed=1)
    first = iqm({"x": {"t": x}, "y": {"t": y}}, {"t": UP}, baseline="x", draws=200)
    assert iqm({"y": {"t": y[order]}, "x": {"t": x[order]}}, {"t": UP}, baseline="x", draws=200) == first


def test_seeds_that_an_arm_misses_are_left_out_for_all() -> None:
    """A seed counts where every arm has it; below 3 there are no intervals."""
    holed = {"x": {"t": [1.0, 2.0, 3.0, 4.0]}, "y": {"t": [1.0, None, 3.0, np.nan]}}
    found = iqm(holed, {"t": UP}, baseline="x")
    assert (found.n, found.left_out) == ({"t": 2}, 2)
    assert found.means["x"] == Estimate(value=pytest.approx(3.0))


def test_tasks_that_do_not_fit_are_refused() -> None:
    """Tasks that differ between arms, unknown baselines, scales without extent, too few or too many draws."""
    good = {"x": {"t": [1.0, 2.0]}, "y": {"t": [1.0, 2.0]}}
    for scores, scales, options, words in [
        (good, {"t": UP, "u": UP}, {}, "only one of them has u"),
        (good, {}, {}, "no tasks"),
        (good, {"t": UP}, {"baseline": "z"}, "baseline 'z' is not among the arms: x, y"),
        (good, {"t": UP}, {"draws": 3}, "draws must lie"),
        ({"x": {"t": [1.0]}, "y": {"t": [1.0, 2.0]}}, {"t": UP}, {}, "different numbers of seeds"),
        ({"x": {"t": [1.0]}, "y": {"t": [None]}}, {"t": UP}, {}, "no seed that every arm has"),
    ]:
        with pytest.raises(ValueError, match=words):
            iqm(scores, scales, **{"baseline": "x", **options})
    with pytest.raises(ValueError, match="must name the same tasks"):
        over_tasks({"t": [1.0]}, {"u": [1.0]}, {"t": UP})
    for trivial, best in [(1.0, 1.0), (0.0, np.inf)]:
        with pytest.raises(ValueError, match="two different finite scores"):
            Scale(trivial=trivial, best=best)
    with pytest.raises(ValueError, match="as shares of the scale holds values that are infinite or beyond"):
        over_tasks({"t": [1.0] * 3}, {"t": [2.0] * 3}, {"t": Scale(trivial=0.0, best=1e-200)})


@pytest.mark.parametrize("units_matter", [0.0, 0.3])
def test_two_level_rests_on_statsmodels_mean_squares(units_matter: float) -> None:
    """Standard error and degrees of freedom follow from the mean squares of seeds, units and rest."""
    seeds, units = 5, 8
    base, noise = draw(seeds, units), draw(seeds, units, seed=1)
    arm = base + noise + units_matter * draw(1, units, seed=2) + 0.3 * draw(seeds, 1, seed=3)
    frame = pd.DataFrame(
        [(s, u, arm[s, u] - base[s, u]) for s in range(seeds) for u in range(units)], columns=["seed", "unit", "d"]
    )
    table = anova_lm(ols("d ~ C(seed) + C(unit)", frame).fit())
    ms = table["sum_sq"] / table["df"]
    extra = max(ms["C(unit)"] - ms["Residual"], 0)
    total = ms["C(seed)"] + extra
    parts = ms["C(seed)"] ** 2 / 4 + (extra > 0) * (ms["C(unit)"] ** 2 / 7 + ms["Residual"] ** 2 / 28)
    error, df = np.sqrt(total / 40), total**2 / parts
    found = two_level(base, arm)
    half = stats.t.ppf(0.975, df) * error
    mean = frame["d"].mean()
    assert attrs.astuple(found.difference) == pytest.approx((mean, mean - half, mean + half), **TIGHT)
    assert (found.df, found.p) == pytest.approx((df, 2 * stats.t.sf(abs(mean) / error, df)), **TIGHT)
    assert found.sd_rest == pytest.approx(np.sqrt(ms["Residual"]), **TIGHT)
    assert found.sd_units == pytest.approx(np.sqrt(extra / seeds), **TIGHT)
    between = max(ms["C(seed)"] - ms["Residual"], 0) / units
    assert found.sd_seeds == pytest.approx(np.sqrt(between), **TIGHT)
    turned = two_level(arm, base)
    assert turned.difference.value == pytest.approx(-mean, **TIGHT)
    assert turned.p == pytest.approx(found.p, **TIGHT)


def test_two_level_leaves_out_failed_seeds_then_incomplete_units() -> None:
    """A failed run takes its seed with it and nothing else; a unit without a score in some run goes."""
    base, arm = draw(6, 5), draw(6, 5, seed=1)
    holed = arm.copy()
    holed[2] = np.nan
    holed[4, 1] = np.nan
    found = two_level(base, holed)
    kept = np.ix_([0, 1, 3, 4, 5], [0, 2, 3, 4])
    truth = two_level(base[kept], arm[kept])
    assert found == attrs.evolve(truth, seeds_left_out=1, units_left_out=1)


def test_two_level_where_there_is_little_to_say() -> None:
    """Fewer than 3 seeds or units, no spread, no scores: a difference or nothing, never NaN; bad shapes are refused."""
    few = two_level(draw(2, 5), draw(2, 5, seed=1))
    assert (few.difference.low, few.p, few.n_seeds) == (None, None, 2)
    none = two_level(np.full((3, 4), np.nan), draw(3, 4))
    assert (none.difference, none.n_seeds, none.n_units, none.seeds_left_out) == (None, 0, 0, 3)
    equal = two_level(draw(3, 4), draw(3, 4))
    assert (equal.difference, equal.p, equal.sd_rest) == (Estimate(value=0.0), None, 0.0)
    latin = np.array([[0.1, 0.2, 0.3], [0.2, 0.3, 0.1], [0.3, 0.1, 0.2]])
    balanced = two_level(np.ones((3, 3)), 1 + latin)
    assert (balanced.p, balanced.difference.low, balanced.df) == (None, None, None)
    assert balanced.sd_rest == pytest.approx(np.sqrt(0.06 / 4))
    crossed = np.array([[1.0, np.nan], [np.nan, 1.0]])
    assert two_level(crossed, crossed).difference is None
    with pytest.raises(ValueError, match="they must agree"):
        two_level(draw(3, 4), draw(4, 3))
    with pytest.raises(ValueError, match="must have 2 axes"):
        two_level(draw(3), draw(3))


def test_statistics_need_numpy_and_scipy_alone() -> None:
    """A report loads neither torch nor pandas to compare its arms."""
    code = "import sys, core.study.stats; print({'torch', 'pandas', 'statsmodels', 'plugins'} & {*sys.modules})"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
