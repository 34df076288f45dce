"""The simulator: what it draws, and that it knows the truth."""

from __future__ import annotations

import attrs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist
from scipy.stats import nbinom, rankdata
from sklearn.linear_model import Ridge
from sklearn.neighbors import KNeighborsRegressor

from core.errors import UserError
from core.train.streams import Streams
from plugins.data.anatomy import profile
from plugins.data.cut import Cut
from plugins.data.prepare import Prepare
from plugins.data.sets import CellSource, Sets
from plugins.data.tissue import Tissue
from plugins.data.truth import TissueTruth

TISSUE = Tissue(sets=Sets(), cut=Cut(), prepare=Prepare())
SMALL = attrs.evolve(TISSUE, sections=2, cells=300, genes=60, types=5)


def arrays(source: CellSource, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Expression and position of a split."""
    units = [unit.fields for unit in source.split(split, Streams(0)).units()]
    return tuple(np.concatenate([u[name][0].numpy() for u in units]) for name in ("expression", "position"))  # type: ignore[return-value]


def spearman(a_nP: np.ndarray, b_nP: np.ndarray) -> float:
    """Mean over cells of the rank correlation of their distances to all cells."""
    a_nn, b_nn = (rankdata(cdist(x, x), axis=1) for x in (a_nP, b_nP))
    a_nn, b_nn = (x - x.mean(axis=1, keepdims=True) for x in (a_nn, b_nn))
    return float(((a_nn * b_nn).sum(axis=1) / np.sqrt((a_nn**2).sum(axis=1) * (b_nn**2).sum(axis=1))).mean())


@pytest.fixture(scope="module")
def source() -> CellSource:
    return attrs.evolve(TISSUE, cells=700).open()


class TestOracle:
    """The ceiling is above what learns from data, and is what it says it is."""

    @pytest.mark.parametrize("change", [{}, {"seed": 1}, {"dims": 3, "genes": 120}])
    def test_position(self, change: dict) -> None:
        """It places cells better than nearest neighbours and ridge regression, and these far better than chance."""
        source = attrs.evolve(TISSUE, cells=700, **change).open()
        train, test = arrays(source, "train"), arrays(source, "test")
        unit = next(source.split("test", Streams(0)).units())
        told = source.oracle(unit)["position"]
        rivals = [
            model.fit(*train).predict(test[0]) for model in (KNeighborsRegressor(15, weights="distance"), Ridge(10.0))
        ]
        error = [np.square(guess - test[1]).sum(axis=1).mean() for guess in (told, *rivals)]
        rank = [spearman(guess, test[1]) for guess in (told, *rivals)]
        assert error[0] < 0.6 * min(error[1:])
        assert rank[0] > max(rank[1:]) + 0.05
        assert min(rank[1:]) > 0.25

    @pytest.mark.parametrize("prepare", [Prepare(), Prepare(transform="log1p"), Prepare(transform="none")])
    def test_expression(self, prepare: Prepare) -> None:
        """It predicts expression better than neighbours in space and ridge regression, and these than the mean."""
        source = attrs.evolve(TISSUE, cells=700, prepare=prepare).open()
        (x, place), (x_test, place_test) = arrays(source, "train"), arrays(source, "test")
        told = source.oracle(next(source.split("test", Streams(0)).units()))["expression"]
        rivals = [model.fit(place, x).predict(place_test) for model in (KNeighborsRegressor(30), Ridge(1.0))]
        error = [np.square(guess - x_test).mean() for guess in (told, *rivals)]
        assert error[0] < 0.99 * min(error[1:])
        assert max(error[1:]) < np.square(x_test).mean()

    def test_conditional_mean(self) -> None:
        """The told expression is the mean of many cells that the simulator puts at the place."""
        source = attrs.evolve(SMALL, cells=60).open()
        unit = next(source.split("test", Streams(0)).units())
        told = source.oracle(unit)["expression"]
        truth, fitted = source._truth, source._fitted
        assert isinstance(truth, TissueTruth)
        rng, draws = np.random.default_rng(0), 20_000
        for place in (0, 7, 23):
            row = int(unit.fields["index"][0, place])
            cut, q_1L = truth.cuts[1], truth.q_nL[[row]]
            type_n = rng.choice(5, draws, p=truth.anatomy.types(q_1L)[0])
            share_nG = profile(truth.anatomy.landscape(q_1L, cut), truth.anatomy.marker_TG[type_n])
            library_n = 600.0 * cut.depth * np.exp(rng.normal(-(0.35**2) / 2, 0.35, draws))
            mean_nG = library_n[:, None] * share_nG
            counts_nG = rng.negative_binomial(8.0, 8.0 / (8.0 + mean_nG)).astype(np.float32)
            counts_nG[rng.random(counts_nG.shape) < 0.05] = 0
            seen_nG = fitted.standardised(np.asarray(fitted.transformed(counts_nG, counts_nG.sum(axis=1))))
            assert np.abs(told[place] - seen_nG.mean(axis=0)).max() < 0.06

    def test_likelihood(self) -> None:
        """The two matrix products equal the log probability of zero-inflated counts, up to a term of the counts."""
        truth = attrs.evolve(SMALL, cells=40, dropout=0.2).open()._truth
        assert isinstance(truth, TissueTruth)
        counts_nG = truth.counts_nG[:6]
        mean_SG = np.random.default_rng(0).uniform(0.1, 30.0, (7, 60))
        got_nS = truth._likelihood(counts_nG, mean_SG)
        prob_nSG = 0.8 * nbinom.pmf(counts_nG[:, None], 8.0, 8.0 / (8.0 + mean_SG)) + 0.2 * (counts_nG[:, None] == 0)
        want_nS = np.log(prob_nSG).sum(axis=2)
        np.testing.assert_allclose(got_nS - got_nS[:, :1], want_nS - want_nS[:, :1], rtol=1e-4, atol=1e-2)

    def test_posterior(self) -> None:
        """Told positions equal a mean over 20,000 simulated cells, each weighted by its likelihood of the counts."""
        tissue = attrs.evolve(SMALL, sections=1, genes=30, depth=25.0)
        truth = tissue.open()._truth
        assert isinstance(truth, TissueTruth)
        rows, cut = np.arange(0, 300, 30), truth.cuts[0]
        told = truth.position(rows)
        q_nL, type_n, _ = attrs.evolve(tissue, cells=20_000)._draw(truth.anatomy, cut, 9)
        share_nG = profile(truth.anatomy.landscape(q_nL, cut), truth.anatomy.marker_TG[type_n])
        place_nP = truth.anatomy.place(q_nL, cut)
        for row, place in zip(rows, told, strict=True):
            counts_G = truth.counts_nG[row]
            mean_nG = counts_G.sum() / 0.95 * share_nG
            prob_nG = 0.95 * nbinom.pmf(counts_G, 8.0, 8.0 / (8.0 + mean_nG)) + 0.05 * (counts_G == 0)
            weight_n = prob_nG.prod(axis=1)
            assert np.linalg.norm(weight_n @ place_nP / weight_n.sum() - place) < 25

    def test_posterior_is_calibrated(self, source: CellSource) -> None:
        """Told positions are right on average: where several cells are told one place, their true mean is near it."""
        unit = next(source.split("test", Streams(0)).units())
        told, true = source.oracle(unit)["position"], unit.fields["position"][0].numpy()
        for axis in range(2):
            slope = np.polyfit(told[:, axis], true[:, axis], 1)[0]
            assert slope == pytest.approx(1.0, abs=0.1)

    def test_any_unit(self, source: CellSource) -> None:
        """It answers for part of a section as for the whole: a cell's answer does not depend on its neighbours."""
        unit = next(source.split("valid", Streams(0)).units())
        whole = source.oracle(unit)
        few = type(unit)({k: v[:, 5:9] for k, v in unit.fields.items()}, unit.real_BN[:, 5:9], unit.units)
        for name, value in source.oracle(few).items():
            np.testing.assert_allclose(value, whole[name][5:9], rtol=1e-4, atol=1e-4)


class TestAnatomy:
    """What a stranger must see."""

    @settings(deadline=None, max_examples=12)
    @given(st.integers(2, 3), st.integers(3, 20), st.integers(10, 60), st.integers(0, 50))
    def test_any_tissue(self, dims: int, types: int, genes: int, seed: int) -> None:
        """Any knobs give finite places and counts of the sizes asked, with type shares that are probabilities."""
        source = attrs.evolve(SMALL, dims=dims, types=types, genes=genes, seed=seed, cells=30).open()
        card, table, truth = source.describe(), source.table, source._truth
        assert isinstance(truth, TissueTruth)
        assert (card.sizes["genes"], card.sizes["dims"], card.sizes["cell_types"]) == (genes, dims, types)
        assert len(set(table.genes)) == genes
        assert len(set(table.types)) == types
        assert np.isfinite(table.position_nP).all()
        share_nT = truth.anatomy.types(truth.q_nL)
        assert share_nT.min() > -1e-9
        np.testing.assert_allclose(share_nT.sum(axis=1), 1.0)

    def test_layers(self, source: CellSource) -> None:
        """Types with a layer of their own lie in order of depth; the spread types lie throughout."""
        truth, table = source._truth, source.table
        assert isinstance(truth, TissueTruth)
        depth = [truth.q_nL[table.type_n == t, 0] for t in range(8)]
        means = [d.mean() for d in depth]
        homed = [t for t, name in enumerate(table.types) if name.startswith("layer")]
        assert [means[t] for t in homed] == sorted(means[t] for t in homed)
        assert max(depth[t].std() for t in homed) < 0.8 * min(depth[t].std() for t in range(8) if t not in homed)

    def test_genes(self, source: CellSource) -> None:
        """Markers differ by type, gradients along the tissue, housekeeping genes by neither."""
        table, truth = source.table, source._truth
        assert isinstance(truth, TissueTruth)
        rate = np.log1p(1e4 * truth.counts_nG / truth.counts_nG.sum(axis=1, keepdims=True))
        strip = np.digitize(truth.q_nL[:, 1], np.linspace(0, 1, 8)[1:-1])

        def told_by(code: np.ndarray) -> np.ndarray:
            """Share of each gene's variance between groups."""
            means = np.stack([rate[code == c].mean(axis=0) for c in np.unique(code)])
            share = np.bincount(code)[:, None] / len(code)
            return (share * (means - rate.mean(axis=0)) ** 2).sum(axis=0) / rate.var(axis=0)

        kind = {
            k: np.array([gene.startswith(k) for gene in table.genes]) for k in ("marker", "gradient", "housekeeping")
        }
        by_type, by_strip = told_by(table.type_n), told_by(strip)
        assert by_type[kind["marker"]].mean() > 4 * by_type[kind["housekeeping"]].mean()
        assert by_strip[kind["gradient"]].mean() > 4 * by_strip[kind["marker"]].mean()

    def test_counts(self) -> None:
        """Totals have the mean and the spread asked for, and dropout adds its share of zeros."""
        quiet = attrs.evolve(SMALL, sections=1, cells=4000, dropout=0.0).open()._truth
        noisy = attrs.evolve(SMALL, sections=1, cells=4000, dropout=0.3).open()._truth
        assert isinstance(quiet, TissueTruth)
        assert isinstance(noisy, TissueTruth)
        total = quiet.counts_nG.sum(axis=1)
        assert total.mean() == pytest.approx(600 * quiet.cuts[0].depth, rel=0.03)
        assert np.log(total).std() == pytest.approx(0.35, abs=0.06)
        full, left = (quiet.counts_nG == 0).mean(), (noisy.counts_nG == 0).mean()
        assert left == pytest.approx(0.3 + 0.7 * full, abs=0.01)

    def test_streams(self) -> None:
        """More sections leave the first as they were; another seed is another tissue."""
        two, three = SMALL.open().table, attrs.evolve(SMALL, sections=3).open().table
        assert np.array_equal(np.asarray(two.counts), three.counts[:600])
        assert np.array_equal(two.position_nP, three.position_nP[:600])
        assert not np.array_equal(np.asarray(two.counts), attrs.evolve(SMALL, seed=1).open().table.counts)

    def test_sections_differ(self, source: CellSource) -> None:
        """Sections of one tissue are warped: the same place in the anatomy lies elsewhere, but not far."""
        truth = source._truth
        assert isinstance(truth, TissueTruth)
        q = truth.q_nL[:200]
        a, b = (truth.anatomy.place(q, cut) for cut in truth.cuts[:2])
        moved = np.linalg.norm((a - a.mean(axis=0)) - (b - b.mean(axis=0)), axis=1)
        assert 5 < moved.mean() < 200

    def test_too_large(self) -> None:
        """A tissue beyond memory is refused."""
        with pytest.raises(UserError, match="lower one of them"):
            attrs.evolve(TISSUE, cells=10_000_000).open()
