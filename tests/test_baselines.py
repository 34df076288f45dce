"""Baselines of the spatial system: each against its definition, and what all of them must keep."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge
from sklearn.neighbors import KNeighborsRegressor

from plugins.systems.spatial import baselines
from plugins.systems.spatial.baselines import impute, place

PLACED = ["mean position", "random placement", "nearest cell", "nearest 15 cells", "nearest 15 cells, even", "ridge"]
IMPUTED = ["mean expression", "random cell", "nearest cell", "nearest 15 cells", "nearest 15 cells, even", "ridge"]


def tissue(seed: int, cells: int, genes: int, axes: int = 2, noise: float = 0.3) -> tuple[np.ndarray, np.ndarray]:
    """Expression that is a smooth function of position plus noise, float32; one tissue whatever the seed."""
    rng = np.random.default_rng(seed)
    position = rng.uniform(-1, 1, (cells, axes))
    load = np.random.default_rng(99).standard_normal((axes, genes))
    expression = np.tanh(position @ load) + noise * rng.standard_normal((cells, genes))
    return expression.astype(np.float32), position.astype(np.float32)


@settings(deadline=None, max_examples=25)
@given(
    train=st.integers(1, 40),
    test=st.integers(1, 9),
    genes=st.integers(1, 70),
    axes=st.integers(1, 3),
    flat=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_shapes(train: int, test: int, genes: int, axes: int, flat: bool, seed: int) -> None:
    """Any number of cells, genes and axes gives finite float32 predictions of every test cell, constant data too."""
    expression, position = tissue(seed, train, genes, axes)
    test_expression, test_position = tissue(seed + 1, test, genes, axes)
    if flat:
        expression[:], position[:] = 0.1, 0.1
    placed = place(expression, position, test_expression, np.random.default_rng(0))
    imputed = impute(expression, position, test_position, np.random.default_rng(0))
    assert list(placed) == PLACED
    assert list(imputed) == IMPUTED
    for found, width in ((placed, axes), (imputed, genes)):
        for values in found.values():
            assert values.shape == (test, width)
            assert values.dtype == np.float32
            assert np.isfinite(values).all()


def test_constant_and_random() -> None:
    """The means are the training means, and random baselines are rows of training cells that follow the generator."""
    expression, position = tissue(0, 300, 20)
    test_expression, test_position = tissue(1, 500, 20)
    placed = [place(expression, position, test_expression, np.random.default_rng(s)) for s in (1, 1, 2)]
    imputed = [impute(expression, position, test_position, np.random.default_rng(s)) for s in (1, 1, 2)]
    np.testing.assert_allclose(placed[0]["mean position"], np.tile(position.mean(0), (500, 1)), atol=1e-6)
    np.testing.assert_allclose(imputed[0]["mean expression"], np.tile(expression.mean(0), (500, 1)), atol=1e-6)
    for name, found, rows in (("random placement", placed, position), ("random cell", imputed, expression)):
        known = {row.tobytes() for row in rows}
        assert all(row.tobytes() in known for row in found[0][name])
        assert len({row.tobytes() for row in found[0][name]}) > 200
        np.testing.assert_array_equal(found[0][name], found[1][name])
        assert (found[0][name] != found[2][name]).any()
        for other in found[0].keys() - {name}:
            np.testing.assert_array_equal(found[0][other], found[2][other])


@pytest.mark.parametrize(("cells", "genes"), [(200, 30), (200, 90), (60, 200)])
def test_neighbours(cells: int, genes: int) -> None:
    """Neighbours are sought in the 50 leading components of expression and weighted by 1 / distance."""
    expression, position = tissue(0, cells, genes)
    test_expression, test_position = tissue(1, 40, genes)
    placed = place(expression, position, test_expression, np.random.default_rng(0))
    imputed = impute(expression, position, test_position, np.random.default_rng(0))
    pca = PCA(min(50, cells - 1, genes), svd_solver="full").fit(expression.astype(float))
    near, far = pca.transform(expression.astype(float)), pca.transform(test_expression.astype(float))
    for found, inputs, values, wanted in (
        (placed, near, position, far),
        (imputed, position, expression, test_position),
    ):
        for name, k, weights in (
            ("nearest cell", 1, "distance"), ("nearest 15 cells", 15, "distance"),
            ("nearest 15 cells, even", 15, "uniform"),
        ):  # fmt: skip
            expected = KNeighborsRegressor(k, weights=weights).fit(inputs, values).predict(wanted)
            np.testing.assert_allclose(found[name], expected, rtol=1e-3, atol=1e-5)


def test_nearest_recovers_training_cells() -> None:
    """A test cell that is a training cell is placed where that one lies, and given its expression."""
    expression, position = tissue(0, 120, 80)
    for name in ("nearest cell", "nearest 15 cells"):
        found = place(expression, position, expression, np.random.default_rng(0))[name]
        np.testing.assert_allclose(found, position, atol=1e-5)
        np.testing.assert_array_equal(
            impute(expression, position, position, np.random.default_rng(0))[name], expression
        )


@pytest.mark.parametrize(("cells", "genes"), [(150, 20), (20, 150), (60, 60)])
def test_ridge(cells: int, genes: int) -> None:
    """Ridge equals sklearn's at the penalty with the least generalised cross-validation error, in both shapes."""
    expression, position = tissue(0, cells, genes, noise=0.5)
    test_expression, _ = tissue(1, 30, genes)
    x, y = expression.astype(float), position.astype(float)
    centred = x - x.mean(0)
    singular = np.linalg.svd(centred, compute_uv=False)
    singular = singular[singular > 1e-5 * singular[0]]
    best = None
    for penalty in baselines.PENALTIES * np.square(singular).mean():
        fit = Ridge(penalty).fit(x, y)
        hat = centred @ np.linalg.solve(centred.T @ centred + penalty * np.eye(genes), centred.T)
        error = np.square(fit.predict(x) - y).sum() / (cells - 1 - np.trace(hat)) ** 2
        if best is None or error < best[0]:
            best = error, fit.predict(test_expression.astype(float))
    found = place(expression, position, test_expression, np.random.default_rng(0))["ridge"]
    np.testing.assert_allclose(found, best[1], rtol=1e-4, atol=1e-4)


def test_ridge_fits_cubics() -> None:
    """Expression that is a cubic of position is imputed as it is inside the training range, and held at its border."""
    rng = np.random.default_rng(0)
    train, test = rng.uniform(3, 7, (400, 2)), rng.uniform(2, 8, (80, 2))

    def expression(position: np.ndarray) -> np.ndarray:
        x, y = position.T - 5
        return np.stack([x**3 - y, x * y, x * y**2 + 2, np.ones_like(x)], 1)

    found = impute(expression(train), train, test, rng)["ridge"]
    np.testing.assert_allclose(found, expression(np.clip(test, train.min(0), train.max(0))), atol=1e-2)


def test_order() -> None:
    """On smooth tissue those that look at the input beat those that do not."""
    expression, position = tissue(0, 600, 60)
    test_expression, test_position = tissue(1, 300, 60)
    placed = place(expression, position, test_expression, np.random.default_rng(0))
    imputed = impute(expression, position, test_position, np.random.default_rng(0))
    for found, true, blind in ((placed, test_position, 2), (imputed, test_expression, 2)):
        error = [np.square(values - true).mean() for values in found.values()]
        assert max(error[blind + 1 :]) < 0.7 * min(error[:blind])
        assert error[2] < error[1]


def test_many_genes_and_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the size of an exact decomposition the most variable genes alone are used."""
    monkeypatch.setattr(baselines, "EXACT", 30)
    expression, position = tissue(0, 100, 80)
    expression[:, 1::2] *= 0.01
    test, _ = tissue(1, 20, 80)
    kept = np.sort(np.argsort(-expression.var(0))[:30])
    whole = place(expression, position, test, np.random.default_rng(0))
    part = place(expression[:, kept], position, test[:, kept], np.random.default_rng(0))
    for name in PLACED:
        np.testing.assert_array_equal(whole[name], part[name])


def test_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """How many rows are held at a time changes nothing but rounding."""
    data = *tissue(0, 90, 120), tissue(1, 33, 120)
    whole = (
        place(data[0], data[1], data[2][0], np.random.default_rng(0)),
        impute(data[0], data[1], data[2][1], np.random.default_rng(0)),
    )
    monkeypatch.setattr(baselines, "ENTRIES", 500)
    parts = (
        place(data[0], data[1], data[2][0], np.random.default_rng(0)),
        impute(data[0], data[1], data[2][1], np.random.default_rng(0)),
    )
    for before, after in zip(whole, parts, strict=True):
        for name in before:
            np.testing.assert_allclose(after[name], before[name], rtol=1e-4, atol=1e-5)


def test_memory() -> None:
    """No float64 copy of the training cells and no matrix of test by training cells is made."""
    expression, position = tissue(0, 6000, 300)
    tracemalloc.start()
    place(expression, position, expression[:3000], np.random.default_rng(0))
    impute(expression, position, position[:3000], np.random.default_rng(0))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100e6


def test_misfits() -> None:
    """Arrays that do not belong together are refused with their shapes."""
    expression, position = tissue(0, 10, 5)
    with pytest.raises(ValueError, match=r"\(10, 5\) and \(9, 2\)"):
        place(expression, position[:9], expression, np.random.default_rng(0))
    with pytest.raises(ValueError, match="needs training cells"):
        impute(expression[:0], position[:0], position, np.random.default_rng(0))
    with pytest.raises(ValueError, match=r"test is \(10, 4\)"):
        place(expression, position, expression[:, :4], np.random.default_rng(0))
