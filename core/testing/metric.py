"""What every metric must do. N items, F values.

@pytest.mark.parametrize("metric", [Procrustes(), Rssd()], ids=str)
class TestMetrics(MetricLaws): ...
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from core.kinds.metric import Metric, Tally

law = settings(
    deadline=None, max_examples=15, suppress_health_check=[HealthCheck.differing_executors, HealthCheck.data_too_large]
)
seeds = st.integers(0, 2**32)


@st.composite
def units(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """A prediction and a truth (N, F) of any finite float32, with ties, constants and single items among them."""
    shape = draw(st.tuples(st.integers(1, 9), st.integers(1, 4)))
    sort = draw(
        st.sampled_from([st.floats(width=32, allow_nan=False, allow_infinity=False), st.sampled_from([0.0, 1.0])])
    )
    one = arrays(np.float32, shape, elements=sort)
    return draw(one | st.just(np.full(shape, 0.1, np.float32))), draw(one)


def types_of(items: int) -> np.ndarray:
    """Three types in turn (N,)."""
    return np.arange(items) % 3


def beside(metric: Metric, predicted: np.ndarray, seed: int) -> list[np.ndarray]:
    """What the metric needs behind prediction and truth, with which a prediction that is the truth is perfect."""
    rng = np.random.default_rng(seed)
    items, values = predicted.shape
    place = rng.standard_normal((items, 2))
    given = {
        "cell_type": types_of(items),
        "place": place,
        "draws": np.stack([predicted] * 5),
        "made_place": place,
        "known": rng.standard_normal((30, values)),
        "known_place": rng.standard_normal((30, 2)),
    }
    return [given[name] for name in metric.needs]


def reordered(metric: Metric, more: list[np.ndarray], order: np.ndarray) -> list[np.ndarray]:
    """The same for items in another order."""
    apart = {"draws": lambda x: x[:, order], "known": lambda x: x, "known_place": lambda x: x}
    return [apart.get(name, lambda x: x[order])(x) for name, x in zip(metric.needs, more, strict=True)]


class MetricLaws:
    """Laws of `core.kinds.metric.Metric` for metrics of arrays (N, F); parametrise a subclass over `metric`."""

    def test_facts(self, metric: Metric) -> None:
        """It says which field it reads, which way is better, its best value and its name on a figure."""
        assert metric.of
        assert metric.label
        assert isinstance(metric.higher, bool)
        assert math.isfinite(metric.best)

    @law
    @given(items=st.integers(12, 40), values=st.integers(2, 5), seed=seeds)
    def test_best(self, metric: Metric, items: int, values: int, seed: int) -> None:
        """A perfect prediction reaches the best value; wrong ones do not, nor a truth dealt to wrong items.

        Nothing is better than the best; of three wrong ones a score of few distinct values may call one perfect.
        """
        rng = np.random.default_rng(seed)
        true, *wrong = rng.standard_normal((4, items, values))
        # Types are as far apart as a metric of clusters may ask.
        true += 60 * types_of(items)[:, None]
        assert metric.score(true, true, *beside(metric, true, seed)) == pytest.approx(metric.best, abs=1e-9)
        sign = 1.0 if metric.higher else -1.0
        for others in (wrong, [rng.permutation(true) for _ in wrong]):
            scores = [sign * metric.score(other, true, *beside(metric, other, seed)) for other in others]
            assert min(scores) < sign * metric.best >= max(scores) - 1e-9

    @law
    @given(unit=units())
    def test_finite(self, metric: Metric, unit: tuple[np.ndarray, np.ndarray]) -> None:
        """Scores of finite input are finite, for constant predictions and for single items too."""
        score = metric.score(*unit, *beside(metric, unit[0], 0))
        assert isinstance(score, float)
        assert math.isfinite(score)

    @law
    @given(unit=units(), seed=seeds)
    def test_order(self, metric: Metric, unit: tuple[np.ndarray, np.ndarray], seed: int) -> None:
        """Permuting the items of prediction and truth together changes nothing, and neither array is written to."""
        predicted, true = unit
        kept = predicted.copy(), true.copy()
        more = beside(metric, predicted, seed)
        order = np.random.default_rng(seed).permutation(len(true))
        turned = metric.score(predicted[order], true[order], *reordered(metric, more, order))
        assert turned == pytest.approx(metric.score(predicted, true, *more), rel=1e-9, abs=1e-7)
        np.testing.assert_array_equal(predicted, kept[0])
        np.testing.assert_array_equal(true, kept[1])

    @law
    @given(ends=st.tuples(st.integers(0, 6), st.integers(0, 6)), seed=seeds)
    def test_merge(self, metric: Metric, ends: tuple[int, int], seed: int) -> None:
        """Tallies of parts, merged in any order, equal that of one pass to the last bit; without its needs none."""
        rng = np.random.default_rng(seed)
        whole = Tally(metric)
        parts = [Tally(metric), Tally(metric), Tally(metric)]
        for i in range(6):
            predicted, true = rng.standard_normal((2, 8, 2))
            more = dict(zip(metric.needs, beside(metric, predicted, seed), strict=True))
            unit = f"u{i}", predicted, true, more
            whole.update(*unit)
            parts[(i >= min(ends)) + (i >= max(ends))].update(*unit)
        a, b, c = parts
        for merged in (a.merge(b).merge(c), a.merge(b.merge(c)), c.merge(a).merge(b)):
            assert merged.scores == whole.scores
            assert merged.value() == whole.value()
        with pytest.raises(ValueError, match="scored"):
            whole.merge(whole)
        lacking = Tally(metric)
        lacking.update("alone", *rng.standard_normal((2, 8, 2)))
        assert bool(lacking.scores) == (not metric.needs)
