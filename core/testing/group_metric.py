"""What every metric of groups must do. P groups, n items of a group, F features.

@pytest.mark.parametrize("metric", [PearsonDelta(), Mmd()], ids=str)
class TestGroupMetrics(GroupMetricLaws): ...
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from core.kinds.comparison import Truth, Undefined
from core.kinds.metric import Graded, GroupMetric

law = settings(
    deadline=None, max_examples=6, suppress_health_check=[HealthCheck.differing_executors, HealthCheck.data_too_large]
)
seeds = st.integers(0, 2**32)
Groups = Mapping[str, np.ndarray]


def screen(seed: int, groups: int = 5, items: int = 40, features: int = 12) -> tuple[Truth, Groups]:
    """A truth with effects that differ between groups in size and number, and another sample of the same groups."""
    rng = np.random.default_rng(seed)
    level_F = rng.uniform(0.5, 2, features)
    sign_F = np.where(np.arange(features) % 2, 1.0, -0.6)

    def draw(group: int) -> np.ndarray:
        shift_F = np.where((np.arange(features) - group) % features < group, 0.4 * (1 + group) * sign_F, 0.0)
        return np.log1p(rng.poisson(np.exp(level_F + shift_F), (items, features)))

    names = [f"g{i}" for i in range(1, groups + 1)]
    truth = Truth(
        groups={name: draw(i) for i, name in enumerate(names, 1)},
        reference=draw(0),
        features=tuple(f"f{i}" for i in range(features)),
        known={f"k{i}": draw(i).mean(0) for i in range(1, groups + 1)},
    )
    return truth, {name: draw(i) for i, name in enumerate(names, 1)}


@st.composite
def comparisons(draw: st.DrawFn) -> tuple[Truth, Groups]:
    """A truth and a prediction of any finite values of log(1 + x), with ties, constants and single items among them."""
    groups, features = draw(st.integers(1, 4)), draw(st.integers(1, 5))
    values = draw(
        st.sampled_from([st.floats(0, 30, width=32), st.sampled_from([0.0, 1.0]), st.just(0.0), st.floats(0, 1e30)])
    )

    def table(draw: st.DrawFn) -> np.ndarray:
        return draw(arrays(np.float32, (draw(st.integers(1, 5)), features), elements=values))

    names = [f"g{i}" for i in range(groups)]
    truth = Truth(
        groups={name: table(draw) for name in names},
        reference=table(draw),
        features=tuple(f"f{i}" for i in range(features)),
        known={"k": table(draw)[0]},
    )
    constant = draw(st.booleans())
    return truth, {name: np.full((2, features), 0.1) if constant else table(draw) for name in names}


def scored(metric: GroupMetric, truth: Truth, predicted: Groups) -> Graded | None:
    """The score; None where the truth holds nothing to judge."""
    try:
        return metric.score(truth.against(predicted))
    except Undefined:
        return None


def same(a: Graded | None, b: Graded | None, names: Mapping[str, str] | None = None) -> bool:
    """Whether two scores agree up to rounding, groups of the first under their `names` in the second."""
    if a is None or b is None:
        return a is b
    there = {(names or {}).get(name, name): value for name, value in a.groups.items()}
    return b.value == pytest.approx(a.value, rel=1e-7, abs=1e-7) and dict(b.groups) == pytest.approx(
        there, rel=1e-7, abs=1e-7
    )


class GroupMetricLaws:
    """Laws of `core.kinds.metric.GroupMetric`; parametrise a subclass over `metric`."""

    def test_facts(self, metric: GroupMetric) -> None:
        """It says which field it reads, which way is better, its best value and its name on a figure."""
        assert metric.of
        assert metric.label
        assert metric.column()
        assert isinstance(metric.higher, bool)
        assert metric.best is None or math.isfinite(metric.best)
        if metric.doubling != "none":
            assert (metric.higher, metric.best) == ((True, 1.0) if metric.doubling == "reliability" else (False, 0.0))

    @law
    @given(seed=seeds)
    def test_best(self, metric: GroupMetric, seed: int) -> None:
        """The truth as its own prediction reaches the best value, and nothing passes it; wrong groups do not reach it.

        What is unbiased reaches it on average over samples of the truth.
        """
        truth, again = screen(seed)
        names = list(truth.groups)
        wrong = dict(zip(names, [truth.groups[name] for name in names[1:] + names[:1]], strict=True))
        if metric.best is None:
            return
        sign = 1.0 if metric.higher else -1.0
        off = sign * metric.score(truth.against(wrong)).value
        assert off < sign * metric.best
        if metric.unbiased:
            many = [metric.score(t.against(p)).value for t, p in (screen(seed + i, 3, 12) for i in range(40))]
            assert abs(np.mean(many) - metric.best) < 6 * np.std(many) / math.sqrt(len(many))
            return
        assert metric.score(truth.against(truth.groups)).value == pytest.approx(metric.best, abs=1e-9)
        assert sign * metric.score(truth.against(again)).value <= sign * metric.best + 1e-9
        assert off <= sign * metric.best + 1e-9

    @law
    @given(given_=comparisons())
    def test_finite(self, metric: GroupMetric, given_: tuple[Truth, Groups]) -> None:
        """Scores of finite input are finite, for constant predictions, features that never vary and single items too.

        Which groups are left out is decided by the truth alone.
        """
        truth, predicted = given_
        found, own = scored(metric, truth, predicted), scored(metric, truth, truth.groups)
        assert (found is None) == (own is None)
        if found is None or own is None:
            return
        assert math.isfinite(found.value)
        assert all(map(math.isfinite, found.groups.values()))
        assert found.groups.keys() == own.groups.keys() <= truth.groups.keys()
        if found.groups:
            assert found.value == pytest.approx(np.mean([*found.groups.values()]), rel=1e-9)

    @law
    @given(seed=seeds)
    def test_order(self, metric: GroupMetric, seed: int) -> None:
        """The order of items and of groups changes nothing, nor do other names of the groups; nothing is written to."""
        truth, predicted = screen(seed, 4, 15, 6)
        kept = {name: table.copy() for name, table in predicted.items()}
        rng = np.random.default_rng(seed)
        names = {name: f"{rng.integers(10**9)}{name}" for name in [*truth.groups][::-1]}
        turned = Truth(
            groups={names[name]: rng.permutation(table) for name, table in truth.groups.items()},
            reference=rng.permutation(truth.reference),
            features=truth.features,
            known=truth.known,
        )
        shuffled = {names[name]: rng.permutation(predicted[name]) for name in names}
        assert same(scored(metric, truth, predicted), scored(metric, turned, shuffled), names)
        for name, table in predicted.items():
            np.testing.assert_array_equal(table, kept[name])

    @law
    @given(seed=seeds)
    def test_over(self, metric: GroupMetric, seed: int) -> None:
        """The value over all judged groups, each once, is the value; that over one group alone is the group's own."""
        truth, predicted = screen(seed)
        found = metric.score(truth.against(predicted))
        assert found.over is not None
        assert found.over(np.arange(found.judged)) == pytest.approx(found.value)
        assert math.isfinite(found.over(np.array([0, 0, found.judged - 1])))
        if found.groups:
            assert found.judged == len(found.groups)
            assert found.over(np.array([1, 1])) == pytest.approx([*found.groups.values()][1])
