"""Factorial effects against statsmodels and the textbook, and what a design cannot tell."""

from __future__ import annotations

import itertools

import attrs
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.formula.api import ols
from statsmodels.stats.anova import anova_lm

from core.study.stats import Effects, aliases, effects

TIGHT = {"rel": 1e-10, "abs": 1e-10}


def grid(*factors: tuple[str, ...], seeds: int = 3, seed: int = 0, names: str = "abcdefg") -> pd.DataFrame:
    """Every cell at every seed, with effects of factors, pairs and seeds."""
    rows = [
        dict(zip(names, [*cell], strict=False)) | {"seed": s}
        for s in range(seeds)
        for cell in itertools.product(*factors)
    ]
    frame = pd.DataFrame(rows)
    generator = np.random.default_rng(seed)
    frame["y"] = generator.normal(size=len(frame))
    for name in [c for c in frame if c != "y"]:
        size = {level: generator.normal() for level in frame[name].unique()}
        frame["y"] += frame[name].map(size)
    return frame


def analyse(frame: pd.DataFrame, **options) -> Effects:
    factors = {name: frame[name].tolist() for name in frame if name not in ("y", "seed")}
    return effects(frame["y"].to_numpy(), factors, frame["seed"].tolist(), **options)


@pytest.mark.parametrize("holes", [0, 4])
def test_effects_equal_statsmodels(holes: int) -> None:
    """Deviations, intervals and type II sums of squares are those of sum-coded least squares, balanced or not."""
    frame = grid(("l", "m", "n"), ("u", "v"), ("x", "y", "z"), seeds=4)
    frame.loc[[3, 17, 40, 41][:holes], "y"] = np.nan
    found = analyse(frame)
    fit = ols("y ~ (C(a, Sum) + C(b, Sum) + C(c, Sum))**2 + C(seed, Sum)", frame.dropna()).fit()
    assert (found.n, found.left_out, found.residual_df) == (72 - holes, holes, fit.df_resid)
    assert found.residual_sd == pytest.approx(np.sqrt(fit.scale), **TIGHT)
    assert found.not_estimable == {}
    ends = fit.conf_int()
    seen = 0
    for d in found.deviations:
        name = ":".join(
            f"C({f}, Sum)[S.{level}]" for f, level in zip(d.term.split(":"), d.level.split(":"), strict=True)
        )
        if name in fit.params:  # the last level of each factor follows from the others and has no coefficient
            seen += 1
            truth = (fit.params[name], *ends.loc[name])
            assert attrs.astuple(d.estimate) == pytest.approx(truth, **TIGHT)
            assert d.p == pytest.approx(fit.pvalues[name], **TIGHT)
    assert seen == 2 + 1 + 2 + 2 + 4 + 2
    table = anova_lm(fit, typ=2)
    for row in found.anova:
        truth = table.loc[":".join(f"C({f}, Sum)" for f in row.term.split(":"))]
        assert (row.sum_of_squares, row.df, row.f, row.p) == pytest.approx(
            (truth["sum_sq"], truth["df"], truth["F"], truth["PR(>F)"]), **TIGHT
        )


def test_two_level_effects_are_the_textbooks() -> None:
    """E = (1/2^(k-1)) sum(+- cell mean) with variance 4 sigma^2 / (n 2^k); a pair is half a difference of effects."""
    k, n = 3, 5
    frame = grid(*[("0", "1")] * k, seeds=n)
    found = analyse(frame)
    mean = frame.groupby([*"abc"])["y"].mean()
    half_width = {}
    for effect in found.two_level:
        factors = effect.term.split(":")
        sign = [
            np.prod([1 if dict(zip("abc", cell, strict=True))[f] == "1" else -1 for f in factors])
            for cell in mean.index
        ]
        assert effect.estimate.value == pytest.approx(np.sum(np.array(sign) * mean.to_numpy()) / 2 ** (k - 1), **TIGHT)
        half_width[effect.term] = effect.estimate.high - effect.estimate.value
    assert len(half_width) == 6
    error = np.sqrt(4 * found.residual_sd**2 / (n * 2**k))
    truth = stats.t.ppf(0.975, found.residual_df) * error
    assert list(half_width.values()) == pytest.approx([truth] * 6, **TIGHT)
    pair = frame.groupby(["a", "b"])["y"].mean()
    half = ((pair["1", "1"] - pair["0", "1"]) - (pair["1", "0"] - pair["0", "0"])) / 2
    assert next(e for e in found.two_level if e.term == "a:b").estimate.value == pytest.approx(half, **TIGHT)


def test_the_baselines_level_comes_first() -> None:
    """`baseline` names the level that a two-level effect starts from; it turns signs of main effects alone."""
    frame = grid(("0", "1"), ("0", "1"))
    plain, turned = analyse(frame), analyse(frame, baseline={"a": 1})
    assert turned.levels == {"a": ("1", "0"), "b": ("0", "1")}
    sign = {"a": -1, "b": 1, "a:b": -1}
    for first, second in zip(plain.two_level, turned.two_level, strict=True):
        assert second.estimate.value == pytest.approx(sign[first.term] * first.estimate.value, **TIGHT)
    for first, second in zip(plain.anova, turned.anova, strict=True):
        assert attrs.astuple(second)[1:] == pytest.approx(attrs.astuple(first)[1:], **TIGHT)


@given(order=st.randoms(use_true_random=False), shift=st.integers(-50, 50), scale=st.sampled_from([0.5, 2.0, 1e-30]))
@settings(deadline=None, max_examples=15)
def test_order_shift_and_unit_of_scores_do_not_matter(order, shift: int, scale: float) -> None:
    """Trials in another order, shifted or in another unit give the same effects in that unit."""
    frame = grid(("l", "m", "n"), ("u", "v"))
    places = list(range(len(frame)))
    order.shuffle(places)
    mixed = frame.iloc[places].assign(y=lambda f: (f["y"] + shift) * scale)
    for first, second in zip(analyse(frame).deviations, analyse(mixed).deviations, strict=True):
        assert (first.term, first.level) == (second.term, second.level)
        values = np.array(attrs.astuple(first.estimate)) * scale
        assert attrs.astuple(second.estimate) == pytest.approx(values, rel=1e-8, abs=1e-9 * scale)
        assert second.p == pytest.approx(first.p, rel=1e-8, abs=1e-9)


def test_one_factor_at_a_time_tells_main_effects_and_no_interaction() -> None:
    """Cells around a baseline alone: interactions are named with the cells that they lack, and taken as absent."""
    frame = grid(("l", "m", "n"), ("u", "v"), seeds=4)
    frame = frame[(frame["a"] == "l") | (frame["b"] == "u")]
    found = analyse(frame)
    assert found.not_estimable == {"a:b": "no scored trial at m:v, n:v"}
    assert found.assumed_absent == ("a:b",)
    fit = ols("y ~ C(a, Sum) + C(b, Sum) + C(seed)", frame).fit()
    assert [d.term for d in found.deviations] == ["a"] * 3 + ["b"] * 2
    assert found.deviations[0].estimate.value == pytest.approx(fit.params["C(a, Sum)[S.l]"], **TIGHT)


def test_all_pairs_around_a_baseline_tell_every_two_way_interaction() -> None:
    """Without the three-way cells all two-way interactions are still told."""
    frame = grid(("0", "1"), ("0", "1"), ("0", "1"))
    frame = frame[~((frame["a"] == "1") & (frame["b"] == "1") & (frame["c"] == "1"))]
    found = analyse(frame)
    assert found.not_estimable == {}
    assert {row.term for row in found.anova} == {"a", "b", "c", "a:b", "a:c", "b:c"}


def test_a_fraction_tells_what_its_alias_table_calls_clear() -> None:
    """2^(5-1) by E = ABCD tells factors and pairs; in 2^(3-1) by C = AB no pair is told from a factor."""
    frame = grid(*[("0", "1")] * 4, names="ABCD", seeds=2)
    frame["E"] = [str(sum(map(int, row)) % 2) for row in frame[[*"ABCD"]].to_numpy()]
    assert analyse(frame).not_estimable == {}
    assert all(row.clear for row in aliases(["E=ABCD"]).table)
    frame = grid(*[("0", "1")] * 2, names="AB")
    frame["C"] = [str(int(a == b)) for a, b in zip(frame["A"], frame["B"], strict=True)]
    found = analyse(frame)
    assert found.assumed_absent == ("A:B", "A:C", "B:C")
    assert "cannot tell it from other factors" in found.not_estimable["A:B"]
    assert [row.term for row in found.anova] == ["A", "B", "C"]


def test_factors_that_move_together_are_named_and_the_rest_is_told() -> None:
    """Two factors with the same levels everywhere cannot be told apart; a third factor still can."""
    frame = grid(("0", "1"), ("0", "1"), seeds=3).assign(c=lambda f: f["a"], d="only")
    found = analyse(frame)
    assert found.not_estimable["d"] == "only one level, only"
    assert {"a", "c", "a:b", "b:c", "a:c"} < set(found.not_estimable)
    assert [row.term for row in found.anova] == ["b"]
    truth = frame.groupby("b")["y"].mean()
    assert found.two_level[0].estimate.value == pytest.approx(truth["1"] - truth["0"], **TIGHT)


def test_a_factor_that_changes_with_the_seed_is_not_told_from_it() -> None:
    """Arms that share no seed have no main effect within seed blocks."""
    frame = pd.DataFrame({"a": ["0", "0", "1", "1"], "seed": [0, 1, 2, 3], "y": [1.0, 2.0, 3.0, 5.0]})
    assert set(analyse(frame).not_estimable) == {"a"}


def test_without_trials_to_spare_there_are_effects_and_no_intervals() -> None:
    """One seed and every cell once leave nothing for error, and so does noiseless data."""
    found = analyse(grid(("0", "1"), ("0", "1"), seeds=1))
    assert (found.residual_df, found.residual_sd) == (0, None)
    assert all(d.estimate.low is None and d.p is None for d in found.deviations)
    assert all(row.f is None for row in found.anova)
    frame = grid(("0", "1"), ("0", "1")).assign(y=lambda f: 3.0 + (f["a"] == "1"))
    found = analyse(frame)
    assert found.residual_sd is None
    assert found.two_level[0].estimate.value == pytest.approx(1.0, **TIGHT)


def test_factorial_mistakes_are_refused() -> None:
    """Lengths that differ, no factors, no scores and unknown baselines."""
    for arguments, words in [
        (([1.0], {"a": ["0", "1"]}, [0]), "a has 2 entries and y 1"),
        (([1.0], {"a": ["0"]}, [0, 1]), "seeds has 2 entries"),
        (([1.0], {}, [0]), "no factors"),
        (([None], {"a": ["0"]}, [0]), "no trial has a score"),
        (([np.inf], {"a": ["0"]}, [0]), "infinite"),
    ]:
        with pytest.raises(ValueError, match=words):
            effects(*arguments)
    frame = grid(("0", "1"))
    with pytest.raises(ValueError, match="baseline level '2' of a has no scored trial"):
        analyse(frame, baseline={"a": "2"})
    with pytest.raises(ValueError, match="baseline names z"):
        analyse(frame, baseline={"z": "2"})


def columns(names: tuple[str, ...], generators: list[str]) -> dict[str, np.ndarray]:
    """The +-1 columns of a fraction, worked out by hand."""
    made = {g[0]: g for g in generators}
    base = [n for n in names if n not in made]
    cells = np.array(list(itertools.product([-1, 1], repeat=len(base))))
    found = dict(zip(base, cells.T, strict=True))
    for name, text in made.items():
        word = text.split("=")[1]
        found[name] = np.prod([found[n] for n in word.lstrip("-")], axis=0) * (-1 if word[0] == "-" else 1)
    return found


@pytest.mark.parametrize(
    "generators", [["E=ABCD"], ["C=AB"], ["D=AB", "E=-AC"], ["E=-ABC", "F=BCD"], ["F=ABC", "G=ABD", "E=AD"]]
)
def test_alias_tables_hold_in_the_cells(generators: list[str]) -> None:
    """Two effects are aliases exactly where their columns are equal, or opposite with a minus, in every cell."""
    found = aliases(generators)
    column = columns(found.factors, generators)
    assert found.cells == len(column["A"])

    def of(effect: str) -> np.ndarray:
        sign = -1 if effect[0] == "-" else 1
        return sign * np.prod([column[n] for n in effect.lstrip("-").split(":")], axis=0)

    every = [":".join(c) for r in range(1, len(found.factors) + 1) for c in itertools.combinations(found.factors, r)]
    assert {w.lstrip("-") for w in found.relation} == {e for e in every if abs(of(e).sum()) == found.cells}
    assert all((of(w) == 1).all() for w in found.relation)
    assert found.resolution == min(len(w.lstrip("-").split(":")) for w in found.relation)
    for row in found.table:
        same = {e for e in every if e != row.effect and abs(of(e) @ of(row.effect)) == found.cells}
        assert {e.lstrip("-") for e in row.mixed_with} == same
        assert all((of(e) == of(row.effect)).all() for e in row.mixed_with)
        assert row.clear == all(e.count(":") > 1 for e in same)


def test_alias_tables_take_names_and_refuse_nonsense() -> None:
    """Factors may have long names; malformed generators are refused with an example."""
    found = aliases(["norm=-attention*ffn"], factors=["ffn"])
    assert found.factors == ("ffn", "attention", "norm")
    assert found.relation == ("-ffn:attention:norm",)
    assert aliases([], factors="AB").resolution is None
    for generators, words in [
        (["E"], "reads"),
        (["E=A"], "two or more others"),
        (["E=AAB"], "each named once"),
        (["E=AE"], "two or more others"),
        (["norm=AB"], "two or more others"),
        (["D=AB", "D=BC"], "set by two generators"),
        (["D=AB", "E=DC"], "which another one sets"),
    ]:
        with pytest.raises(ValueError, match=words):
            aliases(generators)
