"""Baselines of perturbation responses: their formulas, cells that keep zeros, and what was never seen."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.linear_model import Ridge

from core.errors import UserError
from plugins.shared.condition import CONTROL, apart, joined
from plugins.systems.perturb.baselines import PENALTIES, Baseline, Train, fit
from plugins.systems.perturb.shifted import LIFT, shifted

law = settings(deadline=None, max_examples=30)
GENES = tuple("ABCDEFGHIJKL")
SEEN = ("A", "B", "C", "D", "A+B", "C+D", "A+D")


def cells(rate: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """log1p of Poisson counts."""
    return np.log1p(rng.poisson(rate, (count, len(rate)))).astype(np.float32)


@pytest.fixture(scope="module")
def raw() -> dict[str, np.ndarray]:
    """Cells by condition."""
    rng = np.random.default_rng(0)
    base = rng.uniform(0.1, 3, len(GENES))
    effect = {name: np.exp(rng.normal(0, 0.8, len(GENES))) for name in "ABCD"}
    sizes = dict(zip(SEEN, (30, 40, 50, 60, 20, 25, 35), strict=True))
    made = {name: cells(base * np.prod([effect[x] for x in name.split("+")], 0), sizes[name], rng) for name in SEEN}
    return {CONTROL: cells(base, 80, rng), **made}


@pytest.fixture(scope="module")
def train(raw: dict[str, np.ndarray]) -> Train:
    """One stratum."""
    seen = {name: table for name, table in raw.items() if name != CONTROL}
    return Train(
        genes=GENES,
        means={name: table.mean(0, dtype=np.float64) for name, table in seen.items()},
        counts={name: len(table) for name, table in seen.items()},
        controls={"": raw[CONTROL]},
    )


@pytest.fixture(scope="module")
def fitted(train: Train) -> dict[str, Baseline]:
    """By name."""
    return {baseline.name: baseline for baseline in fit(train)}


def test_means(raw: dict[str, np.ndarray], train: Train, fitted: dict[str, Baseline]) -> None:
    """Control, perturbed, matching and additive means are those of the formulas, clipped at 0."""
    control, mean = raw[CONTROL].mean(0, dtype=np.float64), train.means
    perturbed = np.concatenate([raw[name] for name in SEEN]).mean(0, dtype=np.float64)
    wanted = {
        "control mean": control,
        "control resample": control,
        "perturbed mean": perturbed,
        "perturbed mean by condition": np.mean([*mean.values()], 0),
        "matching mean": (mean["B"] + mean["C"]) / 2,
        "additive": mean["B"] + mean["C"] - control,
        "half additive": (mean["B"] + mean["C"]) / 2,
    }
    for name, values in wanted.items():
        np.testing.assert_allclose(fitted[name].mean("B+C"), np.maximum(values, 0), atol=1e-6, err_msg=name)
        assert fitted[name].told("B+C") == ""


def test_half_a_shift(raw: dict[str, np.ndarray], fitted: dict[str, Baseline]) -> None:
    """Half the shift has the same direction as the whole one, where nothing is clipped."""
    control = raw[CONTROL].mean(0, dtype=np.float64)
    whole, half = (fitted[name].effect(("A", "C"))[0] for name in ("additive", "half additive"))
    np.testing.assert_allclose(whole, 2 * half)
    assert control.shape == whole.shape


def test_ridge(train: Train, fitted: dict[str, Baseline]) -> None:
    """Ridge is sklearn's on multi-hot perturbations, with the penalty that leaving one condition out finds best."""
    names = sorted(train.means)
    hot = np.array([[float(p in name.split("+")) for p in "ABCD"] for name in names])
    effects = np.stack([train.effects[name] for name in names])
    errors = []
    for penalty in PENALTIES:
        off = 0.0
        for i in range(len(names)):
            kept = np.arange(len(names)) != i
            model = Ridge(alpha=penalty).fit(hot[kept], effects[kept])
            off += float(np.square(model.predict(hot[i : i + 1]) - effects[i]).sum())
        errors.append(off)
    model = Ridge(alpha=PENALTIES[int(np.argmin(errors))]).fit(hot, effects)
    wanted = model.predict([[0.0, 1, 1, 0]])[0]
    np.testing.assert_allclose(fitted["ridge"].effect(("B", "C"))[0], wanted, atol=1e-6)


def test_bilinear(train: Train, fitted: dict[str, Baseline]) -> None:
    """The bilinear ridge is its formula, for genes perturbed in training and for others; effects of two add up."""
    table = np.stack([*train.means.values(), train.control_means[""]])
    u, s, _ = np.linalg.svd((table - table.mean(0)).T, full_matrices=False)
    a = (u * s)[:, s > 1e-9]
    b = a[:4]
    y = np.stack([train.effects[x] for x in "ABCD"], 1)
    mean = y.mean(1, keepdims=True)
    penalty = 0.1 * np.eye(a.shape[1])
    w = np.linalg.inv(a.T @ a + penalty) @ a.T @ (y - mean) @ b @ np.linalg.inv(b.T @ b + penalty)
    for name, row in (("B", 1), ("F", 5)):
        np.testing.assert_allclose(fitted["bilinear ridge"].effect((name,))[0], a @ w @ a[row] + mean[:, 0], atol=1e-8)
    both = fitted["bilinear ridge"].effect(("B", "F"))[0]
    np.testing.assert_allclose(both, a @ w @ (a[1] + a[5]) + 2 * mean[:, 0], atol=1e-8)


def test_nearest(train: Train, fitted: dict[str, Baseline]) -> None:
    """A condition of training is its own nearest; an unseen pair takes the one that shares most."""
    effect = fitted["nearest seen perturbation"].effect
    for name in SEEN:
        np.testing.assert_array_equal(effect(apart(name)[0])[0], train.effects[name])
    found = effect(("B", "C"))[0]
    assert any(np.array_equal(found, train.effects[name]) for name in ("B", "C"))
    found, said = effect(("K",))
    assert any(np.array_equal(found, train.effects[name]) for name in "ABCD")
    assert "most like" in said


@pytest.mark.parametrize("name", ["matching mean", "additive", "half additive", "ridge", "bilinear ridge"])
def test_unseen(train: Train, fitted: dict[str, Baseline], name: str) -> None:
    """What was never seen falls back to the perturbed mean, and says so; nothing becomes NaN."""
    effect, said = fitted[name].effect(("unheard",))
    np.testing.assert_allclose(effect, train.common)
    assert "unheard" in said
    assert "perturbed mean" in said
    half, said = fitted[name].effect(("A", "unheard"))
    assert np.isfinite(half).all()
    assert "unheard" in said


@pytest.mark.parametrize("index", range(10))
def test_cells(raw: dict[str, np.ndarray], train: Train, index: int) -> None:
    """Cells are >= 0, have the predicted mean, keep zeros, and follow the generator alone."""
    baseline = fit(train)[index]
    for count in (7, 80, 200):
        made = baseline.cells("B+C", count, np.random.default_rng(3))
        assert made.shape == (count, len(GENES))
        assert made.min() >= 0
        assert (made == 0).any()
        np.testing.assert_array_equal(made, baseline.cells("B+C", count, np.random.default_rng(3)))
        if baseline.resamples:
            assert {row.tobytes() for row in made} <= {row.tobytes() for row in raw[CONTROL]}
        else:
            np.testing.assert_allclose(made.mean(0, dtype=np.float64), baseline.mean("B+C"), atol=2e-6)


@law
@given(
    control=arrays(np.float32, st.tuples(st.integers(1, 6), st.integers(1, 4)), elements=st.floats(0, 8, width=32)),
    seed=st.integers(0, 2**32),
)
def test_shifted(control: np.ndarray, seed: int) -> None:
    """Moved cells have the wanted mean exactly; a gene that falls gains no cell, a small rise switches none on."""
    rng = np.random.default_rng(seed)
    kept = control.copy()
    wanted = rng.uniform(0, 6, control.shape[1]) * rng.integers(0, 2, control.shape[1])
    made = shifted(control, wanted, np.random.default_rng(0))
    np.testing.assert_array_equal(control, kept)
    assert np.isfinite(made).all()
    assert (made >= 0).all()
    np.testing.assert_allclose(made.mean(0, dtype=np.float64), wanted, atol=1e-4)
    rise = wanted - control.mean(0, dtype=np.float64)
    gentle = rise <= LIFT * (control > 0).mean(0) * 0.99
    assert (made[:, gentle][control[:, gentle] == 0] == 0).all()
    same = shifted(control, control.mean(0, dtype=np.float64), rng)
    np.testing.assert_allclose(same, control, atol=1e-4)


def test_strata(raw: dict[str, np.ndarray]) -> None:
    """Effects are measured from the controls of their own stratum, so that its level is no effect."""
    high = {name: table + 5 for name, table in raw.items()}
    means = {joined(n, s): t[n].mean(0, dtype=np.float64) for s, t in (("x", raw), ("y", high)) for n in ("A", "B")}
    train = Train(
        genes=GENES, means=means, counts=dict.fromkeys(means, 30), controls={"x": raw[CONTROL], "y": high[CONTROL]}
    )
    baseline = {b.name: b for b in fit(train)}["additive"]
    np.testing.assert_allclose(train.effects["A|x"], train.effects["A|y"], atol=1e-5)
    np.testing.assert_allclose(baseline.mean("B|y"), raw["B"].mean(0) + 5, atol=1e-5)
    with pytest.raises(UserError, match="no control cells of 'z'"):
        baseline.mean("A|z")


def test_refused(raw: dict[str, np.ndarray]) -> None:
    """No controls and arrays of other widths are one clear sentence each; without conditions controls alone stand."""
    good = {"genes": GENES, "means": {"A": np.zeros(12)}, "counts": {"A": 3}, "controls": {"": raw[CONTROL]}}
    for change, said in (
        ({"controls": {"x": raw[CONTROL]}}, "no controls of their own"),
        ({"genes": ("A",)}, "12 genes"),
    ):
        with pytest.raises(UserError, match=said):
            Train(**{**good, **change})
    alone = fit(Train(**{**good, "means": {}, "counts": {}}))
    assert [baseline.name for baseline in alone] == ["control mean", "control resample"]
