"""Simulated studies: how often the functions that users get are wrong. Seeds are fixed, so each result is a constant.

Shape legend: R simulated studies, A arms, S seeds, U units.

Noise is normal; arms share their seed's noise with the baseline (rho .5), and all arms share one baseline.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from core.study.stats import (
    Margin,
    Scale,
    Verdict,
    detectable,
    futile,
    judge,
    nadeau_bengio,
    noise_floor,
    over_tasks,
    paired,
    two_level,
)

STUDIES, ARMS, SEEDS, ALPHA = 2_000, 8, 6, 0.05
LIMIT = ALPHA + 3 * np.sqrt(ALPHA * (1 - ALPHA) / STUDIES)


def scores(studies: int, arms: int, seeds: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Baselines (R, S) and arms (R, A, S) around 10; differences have standard deviation 1."""
    generator = np.random.default_rng(seed)
    shared_RS = generator.normal(10, np.sqrt(0.5), (studies, seeds))
    base_RS = shared_RS + generator.normal(0, np.sqrt(0.5), (studies, seeds))
    return base_RS, shared_RS[:, None] + generator.normal(0, np.sqrt(0.5), (studies, arms, seeds))


def surely(verdicts: list[Verdict]) -> bool:
    return any(v.word in ("better", "worse") for v in verdicts)


def test_without_any_effect_few_studies_claim_one() -> None:
    """Any "better" or "worse" among 8 arms that equal the baseline in at most 5 % of studies; intervals cover 95 %."""
    base_RS, arm_RAS = scores(STUDIES, ARMS, SEEDS, seed=1)
    claims = covered = covered_relative = uncorrected = 0
    for base_S, arm_AS in zip(base_RS, arm_RAS, strict=True):
        contrasts = [paired(base_S, arm_S, larger_is_better=True) for arm_S in arm_AS]
        claims += surely(judge(contrasts, alpha=ALPHA))
        uncorrected += any(c.p <= ALPHA for c in contrasts)
        covered += sum(c.difference.low <= 0 <= c.difference.high for c in contrasts)
        covered_relative += sum(c.relative.low <= 0 <= c.relative.high for c in contrasts)
    assert 0.01 < claims / STUDIES <= LIMIT
    assert uncorrected / STUDIES > 0.15, "without correction this study would be wrong far more often"
    assert 0.94 < covered / (STUDIES * ARMS) < 0.96
    assert 0.94 < covered_relative / (STUDIES * ARMS) < 0.96


def test_stopping_arms_for_futility_makes_no_claim_likelier() -> None:
    """Arms stopped at a rung whose scores correlate with the final ones count in the family; claims stay within 5 %."""
    base_RS, arm_RAS = scores(STUDIES, ARMS, SEEDS, seed=2)
    rho = 0.8
    other_RS, other_RAS = scores(STUDIES, ARMS, SEEDS, seed=3)
    early_RS = rho * base_RS + np.sqrt(1 - rho**2) * other_RS
    early_RAS = rho * arm_RAS + np.sqrt(1 - rho**2) * other_RAS
    claims, stopped, kept = 0, 0, []
    for base_S, arm_AS, early_S, early_AS in zip(base_RS, arm_RAS, early_RS, early_RAS, strict=True):
        alive = [not futile(early_S, early, True).stop for early in early_AS]
        contrasts = [paired(base_S, arm_S, larger_is_better=True) for arm_S in arm_AS[alive]]
        claims += surely(judge(contrasts, alpha=ALPHA, family_size=ARMS))
        stopped += ARMS - len(contrasts)
        kept += [c.difference.value for c in contrasts]
    assert claims / STUDIES <= LIMIT
    assert 0.05 < stopped / (STUDIES * ARMS) < 0.15
    assert 0 < np.mean(kept) < 0.15, "survivors look a little better than they are, in units of the difference's sd"


def test_a_planned_effect_is_found_as_often_as_promised() -> None:
    """At the smallest detectable effect of alpha / 8 one arm of 8 is "better" in 80 % of studies or some more."""
    base_RS, arm_RAS = scores(600, ARMS, SEEDS, seed=4)
    arm_RAS[:, 0] += detectable(SEEDS, 1.0, ALPHA / ARMS)
    words = Counter()
    for base_S, arm_AS in zip(base_RS, arm_RAS, strict=True):
        words[judge([paired(base_S, arm_S, larger_is_better=True) for arm_S in arm_AS])[0].word] += 1
    assert 0.76 < words["better"] / 600 < 0.87
    assert words["worse"] == 0


def test_arms_at_the_margin_are_seldom_called_equivalent() -> None:
    """8 arms whose true effect is the margin itself: an "equivalent" in at most 5 % of studies; with none, in most."""
    margin = Margin(value=2.0, relative=False)
    base_RS, arm_RAS = scores(500, ARMS, SEEDS, seed=5)
    limit = ALPHA + 3 * np.sqrt(ALPHA * (1 - ALPHA) / 500)

    def rate(effect: float) -> float:
        found = 0
        for base_S, arm_AS in zip(base_RS, arm_RAS + effect, strict=True):
            contrasts = [paired(base_S, arm_S, larger_is_better=True) for arm_S in arm_AS]
            found += any(v.p_equivalence_adjusted <= ALPHA for v in judge(contrasts, margin=margin))
        return found / 500

    assert rate(2.0) <= limit
    assert rate(0.0) > 0.5


def test_a_study_of_the_baseline_against_itself_gives_no_verdict() -> None:
    """Arms equal to the baseline are never better or worse; two blocks of its seeds differ in about 5 % of studies."""
    base_RS, arm_RAS = scores(STUDIES, 1, SEEDS, seed=6)
    alike = 0
    for base_S, other_S in zip(base_RS, arm_RAS[::-1, 0], strict=True):
        same = judge([paired(base_S, base_S, larger_is_better=True)] * ARMS)
        assert {v.word for v in same} == {"inconclusive"}
        floor = noise_floor(base_S, other_S)
        alike += abs(floor.difference.value) <= floor.floor
    assert 1 - alike / STUDIES == pytest.approx(ALPHA, abs=3 * np.sqrt(ALPHA * (1 - ALPHA) / STUDIES))


@pytest.mark.parametrize("n", [3, 5, 10])
def test_paired_intervals_cover_at_any_number_of_seeds(n: int) -> None:
    """95 % intervals hold the true difference in 93 to 97 % of 2,000 studies."""
    base_RS, arm_RAS = scores(STUDIES, 1, n, seed=7)
    ends = [paired(b, a[0], larger_is_better=False).difference for b, a in zip(base_RS, arm_RAS, strict=True)]
    assert 0.93 < np.mean([e.low <= 0 <= e.high for e in ends]) < 0.97


def test_intervals_over_tasks_cover() -> None:
    """The mean over 4 fixed tasks of unequal noise, 5 seeds: 95 % intervals cover 93 to 97 %."""
    generator = np.random.default_rng(8)
    scales = {str(d): Scale(trivial=0, best=1) for d in range(4)}
    covered = 0
    for _ in range(1_500):
        base = {d: generator.normal(size=5) for d in scales}
        arm = {d: base[d] + (1 + int(d)) * generator.normal(size=5) for d in scales}
        mean = over_tasks(base, arm, scales).mean
        covered += mean.low <= 0 <= mean.high
    assert 0.93 < covered / 1_500 < 0.97


@pytest.mark.parametrize(("by_seed", "by_unit"), [(1.0, 0.3), (0.3, 1.0), (1.0, 1.0)])
def test_intervals_over_seeds_and_units_cover(by_seed: float, by_unit: float) -> None:
    """6 seeds by 20 units, whichever vary more: intervals cover 93 to 97 %; over seeds alone maybe far less."""
    generator = np.random.default_rng(9)
    covered = seeds_alone = 0
    for _ in range(1_500):
        effect_S1, effect_1U = by_seed * generator.normal(size=(6, 1)), by_unit * generator.normal(size=(1, 20))
        arm_SU = effect_S1 + effect_1U + 0.5 * generator.normal(size=(6, 20))
        both = two_level(np.zeros((6, 20)), arm_SU).difference
        covered += both.low <= 0 <= both.high
        alone = paired(np.zeros(6), arm_SU.mean(axis=1), larger_is_better=True).difference
        seeds_alone += alone.low <= 0 <= alone.high
    assert 0.93 < covered / 1_500 < 0.97
    if by_unit > by_seed:
        assert seeds_alone / 1_500 < 0.8


def test_redrawn_splits_need_their_correction() -> None:
    """If differences share a part, as overlapping splits do, corrected intervals cover 93-97 %, plain ones fail."""
    generator = np.random.default_rng(10)
    n, ratio, studies = 8, 0.25, 1_500
    covered = plain = 0
    shared = np.sqrt(ratio) * generator.normal(size=studies)
    for part, own_S in zip(shared, generator.normal(size=(studies, n)), strict=True):
        arm_S = 10 + part + own_S
        base_S = np.full(n, 10.0)
        right = nadeau_bengio(base_S, arm_S, n_test=1, n_train=4, larger_is_better=True).difference
        wrong = paired(base_S, arm_S, larger_is_better=True).difference
        covered += right.low <= 0 <= right.high
        plain += wrong.low <= 0 <= wrong.high
    assert plain / studies < 0.85
    assert 0.93 < covered / studies < 0.97
