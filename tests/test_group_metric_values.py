"""Metrics of groups against cell-eval's figures, against slow references, and on predictions whose score is known."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
from scipy.spatial.distance import cdist
from sklearn.metrics import average_precision_score, roc_auc_score

from core.config import resolve_part
from core.kinds.comparison import Comparison, Truth, Undefined
from core.kinds.metric import Graded, GroupMetric
from plugins.metrics._differential import LEVEL, benjamini_hochberg, differential, mann_whitney
from plugins.metrics.centroid_accuracy import CentroidAccuracy
from plugins.metrics.de_auc import DeAuc
from plugins.metrics.de_overlap import DeOverlap
from plugins.metrics.discrimination_score import DiscriminationScore
from plugins.metrics.edistance import Edistance
from plugins.metrics.mmd import Mmd
from plugins.metrics.mmd_u import MmdU
from plugins.metrics.pearson_delta import PearsonDelta
from plugins.metrics.pearson_perturbed import PearsonPerturbed
from plugins.metrics.variance_ratio import VarianceRatio
from plugins.metrics.zero_rate_gap import ZeroRateGap
from tests.made_screens import GENES, GOLDEN, screen, truth


@pytest.fixture(scope="module")
def judged() -> Comparison:
    """The made screen and its prediction."""
    return truth().against(screen()[2])


def metric(name: str) -> GroupMetric:
    """A metric by its registered name."""
    return resolve_part("metric", name, {})


def graded(found: Graded, comparison: Comparison) -> list[float | None]:
    """Values in the order of the groups, or the one value."""
    return [found.groups.get(name) for name in comparison.groups] if found.groups else [found.value]


def test_golden_table_is_whole() -> None:
    """cell-eval's table holds all its 27 metrics that are formulas."""
    assert len(GOLDEN) == 27


@pytest.mark.parametrize("name", GOLDEN)
def test_cell_eval(judged: Comparison, name: str) -> None:
    """What cell-eval 0.8.2 computed for this screen is met to 1e-6 in every perturbation, and bears the same name."""
    one = metric(name.lower())
    assert one.column() == name
    found = graded(one.score(judged), judged)
    assert [value is None for value in found] == [value is None for value in GOLDEN[name]]
    for value, wanted in zip(found, GOLDEN[name], strict=True):
        assert value is None or value == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize("sort", ["counts", "continuous", "negative", "constant"])
@pytest.mark.parametrize("items", [(1, 1), (3, 40), (40, 3), (25, 25)])
def test_mann_whitney(sort: str, items: tuple[int, int]) -> None:
    """p values are scipy's to 1e-9, ties and signs or not; 1 where a feature has one value only."""
    rng = np.random.default_rng(sum(items))
    rate = rng.uniform(0, 3, 11)

    def draw(count: int) -> np.ndarray:
        if sort == "constant":
            return np.full((count, 11), 2.5, np.float32)
        counts = rng.poisson(rate, (count, 11))
        noise = rng.standard_normal((count, 11)) if sort != "counts" else 0.0
        return (np.log1p(counts) + noise * (1 if sort == "continuous" else -0.0 + (counts > 1))).astype(np.float32)

    reference, groups = draw(items[1]), {"a": draw(items[0]), "b": draw(items[0])}
    found = mann_whitney(groups, reference)
    for row, table in zip(found, groups.values(), strict=True):
        for f, value in enumerate(row):
            pooled = np.r_[table[:, f], reference[:, f]]
            if pooled.max() == pooled.min():
                assert value == 1.0
                continue
            wanted = scipy.stats.mannwhitneyu(
                *(x[:, f].astype(np.float64) for x in (table, reference)), method="asymptotic"
            ).pvalue
            assert value == pytest.approx(wanted, rel=1e-9, abs=1e-12)


def test_mann_whitney_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Features tested a few at a time give the same p values."""
    controls, real, _ = screen()
    whole = mann_whitney(real, controls)
    monkeypatch.setattr("plugins.metrics._differential.ENTRIES", 300)
    np.testing.assert_array_equal(mann_whitney(real, controls), whole)


def test_benjamini_hochberg() -> None:
    """Rates are scipy's."""
    p = np.random.default_rng(0).uniform(size=(4, 30)) ** 3
    p[1, :5] = p[1, 5]
    wanted = np.stack([scipy.stats.false_discovery_control(row) for row in p])
    np.testing.assert_allclose(benjamini_hochberg(p), wanted, rtol=1e-12)


def test_fold_change() -> None:
    """Fold changes are those of expm1 of the mean logarithm: 0 where neither side has the gene, infinite where one."""
    a, b = np.log1p([[0.0, 0, 3, 2], [0, 0, 1, 0]]), np.log1p([[0.0, 1, 0, 1], [0, 3, 0, 5]])
    found = differential({"a": a.astype(np.float32)}, b.astype(np.float32)).fold_PF[0]
    assert found[:3].tolist() == [0.0, -np.inf, np.inf]
    assert found[3] == pytest.approx(np.log2(np.expm1(a[:, 3].mean()) / np.expm1(b[:, 3].mean())), rel=1e-6)


def slow_overlap(judged: Comparison, name: str, k: int, of_which: str) -> float:
    """Overlap of two ranked lists, gene by gene."""
    lists = []
    for table in (judged.predicted[name], judged.truth.groups[name]):
        side = differential({name: table}, judged.truth.reference)
        genes = [g for g in range(len(GENES)) if side.rate_PF[0, g] < LEVEL]
        lists.append(sorted(genes, key=lambda g, side=side: -abs(side.fold_PF[0, g])))
    k = min(k, len(lists[1] if of_which == "overlap" else lists[0]))
    return len(set(lists[0][:k]) & set(lists[1][:k])) / k if k else 0.0


@pytest.mark.parametrize("of_which", ["overlap", "precision"])
@pytest.mark.parametrize("k", [1, 4, 10])
def test_overlap(judged: Comparison, k: int, of_which: str) -> None:
    """The k strongest genes of both sides, counted one by one."""
    found = DeOverlap(k=k, of_which=of_which).score(judged).groups
    assert found == {name: pytest.approx(slow_overlap(judged, name, k, of_which)) for name in judged.groups}
    assert metric(f"{of_which}_at_{k}") == DeOverlap(k=k, of_which=of_which)


def test_areas(judged: Comparison) -> None:
    """Areas under both curves are sklearn's."""
    for name, pr in DeAuc().score(judged).groups.items():
        sides = (judged.predicted[name], judged.truth.groups[name])
        found, wanted = (differential({name: x}, judged.truth.reference).rate_PF[0] for x in sides)
        label, sure = wanted < LEVEL, -np.log10(np.clip(found, 1e-10, 1))
        assert pr == pytest.approx(average_precision_score(label, sure), rel=1e-9)
        assert DeAuc(curve="roc").score(judged).groups[name] == pytest.approx(roc_auc_score(label, sure), rel=1e-9)


def slow_mmd(x: np.ndarray, y: np.ndarray, *, apart: bool) -> float:
    """Every pair, one kernel at a time."""
    x, y = x.astype(np.float64), y.astype(np.float64)
    inner = [((a - b) ** 2).sum() for i, a in enumerate(y) for j, b in enumerate(y) if i != j]
    total = 0.0
    for width in (0.5, 1, 2, 4):

        def k(a: np.ndarray, b: np.ndarray, width: float = width) -> float:
            return float(np.exp(-((a - b) ** 2).sum() / (2 * width * np.median(inner))))

        def within(z: np.ndarray, k=k) -> float:
            pairs = [k(a, b) for i, a in enumerate(z) for j, b in enumerate(z) if i != j or not apart]
            return float(np.mean(pairs))

        total += within(x) + within(y) - 2 * float(np.mean([k(a, b) for a in x for b in y]))
    return total / 4


def test_distances_of_cells(judged: Comparison) -> None:
    """MMD with and without bias and the energy distance agree with all pairs written out."""
    name = "G8"
    x, y = judged.predicted[name], judged.truth.groups[name]
    assert MmdU().score(judged).groups[name] == pytest.approx(slow_mmd(x, y, apart=True), rel=1e-9, abs=1e-12)
    assert Mmd().score(judged).groups[name] == pytest.approx(slow_mmd(x, y, apart=False), rel=1e-9, abs=1e-12)
    x, y = x.astype(np.float64), y.astype(np.float64)
    energy = 2 * cdist(x, y).mean() - cdist(x, x).mean() - cdist(y, y).mean()
    assert Edistance().score(judged).groups[name] == pytest.approx(energy, rel=1e-9, abs=1e-12)


def test_systema(judged: Comparison) -> None:
    """Perturbed-reference Pearson and centroid accuracy, by loops; the mean of the known means earns nothing."""
    origin = np.mean([*judged.truth.known.values()], 0, dtype=np.float64)
    found = {n: x.mean(0, dtype=np.float64) for n, x in judged.predicted.items()}
    true = {n: x.mean(0, dtype=np.float64) for n, x in judged.truth.groups.items()}
    for name in judged.groups:
        wanted = np.corrcoef(found[name] - origin, true[name] - origin)[0, 1]
        assert PearsonPerturbed().score(judged).groups[name] == pytest.approx(wanted, rel=1e-9)
        own = np.linalg.norm(found[name] - true[name])
        others = [np.linalg.norm(found[name] - true[q]) > own for q in judged.groups if q != name]
        assert CentroidAccuracy().score(judged).groups[name] == pytest.approx(np.mean(others), rel=1e-9)
    flat = judged.truth.against({name: np.tile(origin, (2, 1)) for name in judged.groups})
    assert PearsonPerturbed().score(flat).value == pytest.approx(0.0, abs=0.15)
    unknown = Truth(groups=judged.truth.groups, reference=judged.truth.reference, features=GENES)
    with pytest.raises(Undefined, match="not known"):
        PearsonPerturbed().score(unknown.against(judged.predicted))


def test_top_genes(judged: Comparison) -> None:
    """The top genes are those of the least true p values; a gene that no cell has is never among them."""
    side = differential(judged.truth.groups, judged.truth.reference)
    d = {
        name: [x[name].mean(0, dtype=np.float64) - judged.truth.reference.mean(0, dtype=np.float64) for x in sides]
        for sides in [(judged.predicted, judged.truth.groups)]
        for name in judged.groups
    }
    for i, name in enumerate(judged.groups):
        top = sorted(range(1, len(GENES)), key=lambda g, i=i: (side.p_PF[i, g], -abs(side.fold_PF[i, g])))[:20]
        wanted = np.corrcoef(d[name][0][top], d[name][1][top])[0, 1]
        assert PearsonDelta(top=20).score(judged).groups[name] == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize("distance", ["l1", "l2", "cosine"])
def test_constant_prediction(distance: str) -> None:
    """One prediction for all scores (P + 1) / (2 P) in discrimination and exactly a half in centroid accuracy."""
    real = truth()
    names = {name: f"p{i}" for i, name in enumerate(real.groups)}  # genes of one's own name would be left out
    real = Truth(groups={names[n]: x for n, x in real.groups.items()}, reference=real.reference, features=GENES)
    flat = real.against(dict.fromkeys(real.groups, real.groups["p3"]))
    groups = len(real.groups)
    assert DiscriminationScore(distance=distance).score(flat).value == pytest.approx((groups + 1) / (2 * groups))
    assert CentroidAccuracy().score(flat).value == pytest.approx(0.5)


def test_own_gene_is_left_out(judged: Comparison) -> None:
    """A prediction that is right in the perturbed gene alone is not told apart by it: three equal effects are left."""
    base = judged.truth.reference
    knocked = base.copy()
    knocked[:, 1] += 5
    groups = {"G1": knocked, "G2": base, "G3": base}
    real = Truth(groups=groups, reference=base, features=GENES)
    shown = Truth(groups=groups, reference=base, features=GENES, own=dict.fromkeys(groups, ""))
    assert DiscriminationScore().score(shown.against(groups)).groups["G1"] == 1.0
    assert DiscriminationScore().score(real.against(groups)).groups["G1"] == pytest.approx(2 / 3)


def test_lost_zeros(judged: Comparison) -> None:
    """Zeros that become tiny numbers leave the means, and ruin what rests on differing genes; the gap tells."""
    rng = np.random.default_rng(0)
    tiny = {name: np.where(x == 0, np.abs(rng.normal(0, 1e-3, x.shape)), x) for name, x in judged.truth.groups.items()}
    lost = judged.truth.against(tiny)
    assert PearsonDelta().score(lost).value > 0.99
    assert DeAuc(curve="roc").score(lost).value < 0.9
    assert ZeroRateGap().score(lost).value > 0.2
    assert VarianceRatio().score(lost).value > 0.99


def test_variance() -> None:
    """Half the spread is a quarter of the variance, twice the spread as well; one item repeated is 0."""
    rng = np.random.default_rng(1)
    x = rng.normal(5, 1, (50, 4)).astype(np.float32)
    real = Truth(groups={"a": x}, reference=x, features=("a", "b", "c", "d"))
    for scale, wanted in ((0.5, 0.25), (2.0, 0.25), (1.0, 1.0), (0.0, 0.0)):
        found = VarianceRatio().score(real.against({"a": 5 + scale * (x - 5)}))
        assert found.value == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize("top", [1, 2])
@pytest.mark.parametrize("cls", [PearsonDelta, PearsonPerturbed])
def test_too_few_genes(cls: type, top: int) -> None:
    """A correlation over one or two genes is refused."""
    with pytest.raises(ValueError, match="fewer than 3 features"):
        cls(top=top)


def test_what_is_no_comparison() -> None:
    """Other groups, other widths, no items and values that are not finite are refused with a reason."""
    x = np.ones((2, 3))
    for groups, reference, features, said in (
        ({}, x, "abc", "nothing to compare"),
        ({"a": x}, x[:, :2], "abc", "reference"),
        ({"a": x[:0]}, x, "abc", "at least one item"),
        ({"a": x * np.nan}, x, "abc", "not finite"),
    ):
        with pytest.raises(ValueError, match=said):
            Truth(groups=groups, reference=reference, features=tuple(features))
    real = Truth(groups={"a": x}, reference=x, features=tuple("abc"))
    with pytest.raises(ValueError, match="same groups"):
        real.against({"b": x})
    with pytest.raises(Undefined):
        CentroidAccuracy().score(real.against({"a": x}))


def test_the_mean_of_all_predicted_for_each_scores_nothing() -> None:
    """The mean of the trained groups, but for single precision, has no correlation rather than one of rounding."""
    rng = np.random.default_rng(0)
    known = {f"k{i}": rng.gamma(2.0, size=50) for i in range(5)}
    mean = np.mean([*known.values()], axis=0)
    truth = Truth(
        groups={name: rng.gamma(2.0, size=(30, 50)) for name in ("a", "b", "c")},
        reference=rng.gamma(2.0, size=(30, 50)),
        features=tuple(f"g{i}" for i in range(50)),
        known=known,
        own={name: name for name in ("a", "b", "c")},
    )
    made = {name: np.repeat(mean[None], 30, 0).astype(np.float32) for name in truth.groups}
    graded = PearsonPerturbed(top=0).score(truth.against(made))
    assert set(graded.groups.values()) == {0.0}
