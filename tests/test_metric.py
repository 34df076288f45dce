"""Metrics: the laws of the kind, each metric against a slow reference, and LUNA's published slice."""

from __future__ import annotations

import csv
import itertools
import tracemalloc

import numpy as np
import pytest
import scipy.sparse as sp
import scipy.spatial
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from core.kinds.metric import Metric
from core.testing.metric import MetricLaws, beside, law, seeds
from plugins.losses.distance_mse import DistanceMse
from plugins.metrics._weights import moran, neighbour_weights
from plugins.metrics.calibration import Calibration
from plugins.metrics.cluster_agreement import ClusterAgreement, agreement
from plugins.metrics.contact_f1 import ContactF1
from plugins.metrics.cosine_cell import CosineCell
from plugins.metrics.distance_calibration import DistanceCalibration
from plugins.metrics.distance_error import DistanceError
from plugins.metrics.distance_spearman import DistanceSpearman
from plugins.metrics.distance_spearman_mean import DistanceSpearmanMean
from plugins.metrics.expression_mae import ExpressionMae
from plugins.metrics.expression_mse import ExpressionMse
from plugins.metrics.joint_coherence import JointCoherence
from plugins.metrics.knn_preservation import KnnPreservation
from plugins.metrics.moran_agreement import MoranAgreement
from plugins.metrics.pearson_cell import PearsonCell
from plugins.metrics.pearson_gene import PearsonGene
from plugins.metrics.procrustes import Procrustes
from plugins.metrics.rssd import Rssd
from plugins.metrics.rssd_class import RssdClass
from realdata import realdata

EXPRESSION = [
    ExpressionMse(), ExpressionMae(), PearsonGene(), PearsonCell(), CosineCell(), MoranAgreement(),
    ClusterAgreement(by="ari"), ClusterAgreement(by="nmi"), ClusterAgreement(by="accuracy"), Calibration(),
]  # fmt: skip
POSITION = [
    DistanceSpearman(), DistanceSpearman(rescale=True), ContactF1(), ContactF1(percentile=0.3, rescale=True),
    Rssd(), Procrustes(), KnnPreservation(), KnnPreservation(k=3), DistanceError(), DistanceSpearmanMean(),
]  # fmt: skip
BESIDE = [RssdClass(), RssdClass(pool="sum"), DistanceCalibration(), JointCoherence()]


@pytest.mark.parametrize("metric", EXPRESSION + POSITION + BESIDE, ids=str)
class TestMetrics(MetricLaws):
    """Every built-in metric obeys the laws."""


def draw(seed: int, items: int = 40, values: int = 2, ties: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """A prediction that follows the truth loosely; with `ties` both lie on a coarse grid."""
    rng = np.random.default_rng(seed)
    true = rng.standard_normal((items, values)) * rng.uniform(0.5, 2, values)
    predicted = true + 0.7 * rng.standard_normal(true.shape)
    return (np.round(predicted), np.round(true)) if ties else (predicted, true)


def matrix(x: np.ndarray) -> np.ndarray:
    """All distances, from all differences."""
    return np.sqrt(np.square(x[:, None] - x[None]).sum(2))


def stretched(predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
    """LUNA's scaling, written for a truth of any extent."""
    unit = (predicted - predicted.min(0)) / (predicted.max(0) - predicted.min(0)) - 0.5
    return unit * (true.max(0) - true.min(0))


def slow_spearman(predicted: np.ndarray, true: np.ndarray) -> float:
    """Row by row with scipy."""
    rows = zip(matrix(predicted), matrix(true), strict=True)
    return float(np.median([scipy.stats.spearmanr(a, b).statistic for a, b in rows]))


def slow_contact(predicted: np.ndarray, true: np.ndarray) -> float:
    """Whole matrices and numpy's quantile."""
    found, wanted = matrix(predicted), matrix(true)
    apart = (found > 0) & (wanted > 0)
    found, wanted = found[apart], wanted[apart]
    found, wanted = found < np.quantile(found, 0.1), wanted < np.quantile(wanted, 0.1)
    return 2 * (found & wanted).sum() / max(1, found.sum() + wanted.sum())


def slow_knn(predicted: np.ndarray, true: np.ndarray) -> float:
    """Cell by cell, by sorting the others."""
    shares = []
    for i, rows in enumerate(zip(matrix(predicted), matrix(true), strict=True)):
        near = []
        for row in rows:
            limit = sorted(np.delete(row, i))[9]
            near.append({j for j in range(len(row)) if j != i and row[j] <= limit})
        shares.append(len(near[0] & near[1]) / max(len(near[0]), len(near[1])))
    return float(np.mean(shares))


def slow_rssd(predicted: np.ndarray, true: np.ndarray) -> float:
    """LUNA's way: planar data padded with z = 0 and rotated in space by scipy."""
    flat = [np.c_[x, np.zeros(len(x))] for x in (true, predicted)]
    return float(scipy.spatial.transform.Rotation.align_vectors(*flat)[1])


def slow_procrustes(predicted: np.ndarray, true: np.ndarray) -> float:
    """scipy's."""
    return float(scipy.spatial.procrustes(true, predicted)[2])


def slow_pearson(predicted: np.ndarray, true: np.ndarray) -> float:
    """Row by row with numpy."""
    return float(np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(predicted, true, strict=True)]))


SLOW = {
    "spearman": (DistanceSpearman(), slow_spearman, True),
    "spearman stretched": (DistanceSpearman(rescale=True), lambda p, t: slow_spearman(stretched(p, t), t), False),
    "contact": (ContactF1(), slow_contact, True),
    "contact stretched": (ContactF1(rescale=True), lambda p, t: slow_contact(stretched(p, t), t), False),
    "knn": (KnnPreservation(), slow_knn, True),
    "rssd": (Rssd(), slow_rssd, False),
    "procrustes": (Procrustes(), slow_procrustes, True),
    "distance": (DistanceError(), lambda p, t: np.sqrt(np.square(matrix(p) - matrix(t)).mean()), True),
    "mse": (ExpressionMse(), lambda p, t: np.square(p - t).mean(), True),
    "gene": (PearsonGene(), lambda p, t: slow_pearson(p.T, t.T), False),
    "cell": (PearsonCell(), lambda p, t: slow_pearson(p, t), False),
}


@pytest.mark.filterwarnings("ignore:Optimal rotation is not uniquely:UserWarning")
@pytest.mark.parametrize("name", SLOW)
@law
@given(seed=seeds, items=st.integers(20, 60), ties=st.booleans())
def test_reference(name: str, seed: int, items: int, ties: bool) -> None:
    """Scores equal those of the definition written out, also with ties, where the reference breaks none by rounding."""
    metric, slow, on_grid = SLOW[name]
    predicted, true = draw(seed, items, ties=ties and on_grid)
    assert metric.score(predicted, true) == pytest.approx(slow(predicted, true), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("metric", [m for m in POSITION if not isinstance(m, Rssd | Procrustes)], ids=str)
def test_blocks(metric: Metric, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores do not depend on how many rows of the distance matrix are held at a time."""
    predicted, true = draw(3, 61)
    whole = metric.score(predicted, true)
    monkeypatch.setattr("plugins.metrics._arrays.ENTRIES", 300)
    assert metric.score(predicted, true) == pytest.approx(whole, rel=1e-12)


@pytest.mark.parametrize("metric", POSITION, ids=str)
def test_memory(metric: Metric, monkeypatch: pytest.MonkeyPatch) -> None:
    """2,000 cells take a fraction of the 32 MB of their distance matrix, also where 200 of them lie on one spot."""
    monkeypatch.setattr("plugins.metrics._arrays.ENTRIES", 1 << 16)
    predicted, true = draw(0, 2000)
    predicted[:200] = predicted[0]
    tracemalloc.start()
    metric.score(predicted, true)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16e6


@law
@given(seed=seeds, axes=st.integers(1, 3), shift=st.floats(-1e4, 1e4))
def test_pose(seed: int, axes: int, shift: float) -> None:
    """Turning or mirroring changes no score of distances without rescaling; a shift changes none but RSSD."""
    predicted, true = draw(seed, 30, axes)
    turn = np.linalg.qr(np.random.default_rng(seed).standard_normal((axes, axes)))[0]
    for metric in (m for m in POSITION if not getattr(m, "rescale", False)):
        score = metric.score(predicted, true)
        assert metric.score(predicted @ turn, true) == pytest.approx(score, abs=1e-8)
        if not isinstance(metric, Rssd):
            assert metric.score(predicted @ turn + shift, true) == pytest.approx(score, abs=1e-6)
    assert Procrustes().score(3 * predicted @ turn + shift, true) == pytest.approx(
        Procrustes().score(predicted, true), abs=1e-8
    )
    assert Rssd().score(true @ turn, true) == pytest.approx(0, abs=1e-9)


def test_rssd_keeps_shift_and_scale() -> None:
    """RSSD sees a shift and a scale, and for one cell the difference of two distances from the origin."""
    _, true = draw(1, 50)
    assert Rssd().score(true * 2, true) == pytest.approx(np.linalg.norm(true))
    assert Rssd().score(true + 100, true) > 100
    assert Rssd().score(np.array([[3.0, 4.0]]), np.array([[0.0, 1.0]])) == pytest.approx(4.0)


@pytest.mark.parametrize(
    ("metric", "value"),
    [
        (DistanceSpearman(), 0.0), (ContactF1(), 0.0), (Procrustes(), 1.0), (KnnPreservation(), 10 / 39),
        (PearsonGene(), 0.0), (PearsonCell(), 0.0),
    ],
    ids=str,
)  # fmt: skip
def test_collapsed(metric: Metric, value: float) -> None:
    """A prediction that is the same everywhere earns nothing, and for neighbours no more than chance."""
    _, true = draw(2)
    assert metric.score(np.full_like(true, 0.1), true) == pytest.approx(value)


@pytest.mark.parametrize("metric", [DistanceSpearman(), ContactF1(), Procrustes(), KnnPreservation()], ids=str)
def test_shuffled(metric: Metric) -> None:
    """A truth dealt out to the wrong cells scores as chance does."""
    rng = np.random.default_rng(0)
    true = rng.standard_normal((1500, 2))
    chance = {DistanceSpearman: 0.0, ContactF1: 0.1, Procrustes: 1.0, KnnPreservation: 10 / 1499}[type(metric)]
    assert metric.score(rng.permutation(true), true) == pytest.approx(chance, abs=0.02)


def test_distance_error_is_the_loss() -> None:
    """Its square is the training loss of the same unit."""
    predicted, true = draw(4)
    arrays = [torch.tensor(x)[None] for x in (predicted, true)]
    loss = DistanceMse()(*arrays, torch.ones(1, len(true), dtype=torch.bool))["distance_mse"]
    assert DistanceError().score(predicted, true) ** 2 == pytest.approx(loss.item(), rel=1e-12)


def test_constant_genes() -> None:
    """A gene constant in the truth is left out, one predicted constant counts 0, and so does a unit without genes."""
    predicted, true = draw(5, values=4)
    alone = PearsonGene().score(predicted[:, :1], true[:, :1])
    true[:, 2:] = 7.0
    predicted[:, 1] = 0.1
    assert PearsonGene().score(predicted, true) == pytest.approx(alone / 2)
    assert PearsonGene().score(predicted, np.full_like(true, 0.1)) == 0.0
    assert PearsonCell().score(predicted.T, true.T) == pytest.approx(alone / 2)


def test_neighbours_never_count_self() -> None:
    """Duplicated cells are neighbours like others, and with too few cells the neighbours are all others."""
    true = np.array([[0.0], [0.0], [5.0], [6.0]])
    assert KnnPreservation(k=1).score(true[[0, 2, 1, 3]], true) == 0.0
    assert KnnPreservation(k=1).score(true, true) == 1.0
    assert KnnPreservation(k=99).score(true[[0, 2, 1, 3]], true) == 1.0
    assert KnnPreservation().score(true[:1], true[:1]) == 0.0


def test_rescale() -> None:
    """Rescaling forgives a stretched axis, keeps a tissue's aspect, and makes a turned prediction worse than it is."""
    true = draw(6)[1] * [10.0, 1.0]
    assert DistanceSpearman(rescale=True).score(true * [1.0, 100.0], true) == pytest.approx(1.0)
    assert DistanceSpearman().score(true * [1.0, 100.0], true) < 0.9
    assert DistanceSpearman(rescale=True).score(true, true) == pytest.approx(1.0)
    assert DistanceSpearman(rescale=True).score(true[:, ::-1], true) < 0.5
    assert DistanceSpearman().score(true[:, ::-1], true) == pytest.approx(1.0)


@pytest.mark.parametrize("metric", EXPRESSION + POSITION + BESIDE, ids=str)
def test_shapes(metric: Metric) -> None:
    """Arrays that would broadcast are refused with both shapes named."""
    with pytest.raises(ValueError, match=r"\(4, 1\).* \(4, 2\)"):
        metric.score(np.zeros((4, 1)), np.zeros((4, 2)), *beside(metric, np.zeros((4, 2)), 0))


@pytest.fixture(scope="module")
def luna() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """LUNA's shipped result on a section of 3,780 cells: predicted and true positions, and cell classes."""

    def read(name: str) -> list[list[str]]:
        with realdata("spatial", "luna_example", name).open(newline="") as lines:
            return list(csv.reader(lines))[1:]

    predicted, true = read("metadata_pred.csv"), read("metadata_true.csv")
    assert [row[:2] for row in predicted] == [row[:2] for row in true]
    positions = (np.array([row[2:4] for row in rows], float) for rows in (predicted, true))
    return *positions, np.array([row[1] for row in true])


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("metric", "value", "within"),
    [
        (DistanceSpearman(), 0.5097, 5e-5), (DistanceSpearman(rescale=True), 0.5097, 5e-5), (Rssd(), 15.479, 5e-4),
        (ContactF1(), 0.2934, 5e-5), (ContactF1(rescale=True), 0.2934, 5e-5),
        (KnnPreservation(), 0.0217, 5e-5), (Procrustes(), 0.598, 5e-4),
    ],
    ids=str,
)  # fmt: skip
def test_luna(metric: Metric, value: float, within: float, luna: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    """On LUNA's shipped slice, whose predictions are scaled already, the scores are those LUNA's evaluation prints."""
    assert metric.score(luna[0], luna[1]) == pytest.approx(value, abs=within)


@pytest.mark.realdata
def test_luna_parts(luna: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    """So are the mean Spearman over cells and the mean RSSD over cell classes."""
    predicted, true, classes = luna
    assert DistanceSpearman().by_cell(predicted, true).mean() == pytest.approx(0.4368, abs=5e-5)
    by_class = [Rssd().score(predicted[classes == c], true[classes == c]) for c in np.unique(classes)]
    assert np.mean(by_class) == pytest.approx(3.010, abs=5e-4)


def test_rssd_of_large_coordinates_does_not_depend_on_their_order() -> None:
    """A residual of a hundred between coordinates of half a billion is the same to the last bit in any order."""
    far = 4.6168323e8
    predicted = np.array([[4.0, 0.0], [far, far], [far, far + 64]], np.float32)
    true = np.array([[137.0, 0.0], [far + 96, far + 96], [far, far]], np.float32)
    scores = {Rssd().score(predicted[list(order)], true[list(order)]) for order in itertools.permutations(range(3))}
    assert len(scores) == 1


def test_cosine_and_absolute_error() -> None:
    """Both equal the definition written out; a cell of zeros is left out."""
    predicted, true = draw(7, values=5)
    true[0] = 0
    each = [(p @ t) / np.linalg.norm(p) / np.linalg.norm(t) for p, t in zip(predicted[1:], true[1:], strict=True)]
    assert CosineCell().score(predicted, true) == pytest.approx(np.mean(each))
    assert CosineCell().score(3 * predicted, true) == pytest.approx(np.mean(each))
    assert ExpressionMae().score(predicted, true) == pytest.approx(np.abs(predicted - true).mean())


def slow_moran(values: np.ndarray, weights: np.ndarray) -> float:
    """The textbook's double sum, for one gene."""
    z = values - values.mean()
    top = sum(weights[i, j] * z[i] * z[j] for i in range(len(z)) for j in range(len(z)))
    return len(z) / weights.sum() * top / (z @ z)


@law
@given(seed=seeds, cells=st.integers(2, 25))
def test_moran(seed: int, cells: int) -> None:
    """Moran's I equals the double sum for any weights, symmetric or not, gene by gene."""
    rng = np.random.default_rng(seed)
    values, weights = rng.standard_normal((cells, 3)) * 100 + 1e4, rng.random((cells, cells)) * (rng.random() + 0.1)
    np.fill_diagonal(weights, 0)
    found = moran(values, sp.csr_matrix(weights))
    np.testing.assert_allclose(found, [slow_moran(values[:, g], weights) for g in range(3)], rtol=1e-9, atol=1e-9)


def test_moran_of_opposite_genes_is_not_averaged_away() -> None:
    """Two genes of opposite pattern have the same I, and so has each of a checkerboard, which is negative."""
    x, y = np.meshgrid(np.arange(8.0), np.arange(8.0))
    place = np.stack([x.ravel(), y.ravel()], 1)
    wave = np.sin(x / 2).ravel()
    up, down, board = moran(np.stack([wave, -wave, (x + y).ravel() % 2], 1), neighbour_weights(place, 4))
    assert up == pytest.approx(down)
    assert up > 0.5
    assert board < -0.5


@law
@given(seed=seeds, cells=st.integers(2, 30), k=st.integers(1, 8), grid=st.booleans())
def test_neighbour_weights(seed: int, cells: int, k: int, grid: bool) -> None:
    """Each row holds the other cells no farther than the k-th nearest other, ties and coincident cells too, evenly."""
    place = np.random.default_rng(seed).standard_normal((cells, 2)) * 2
    place = np.round(place) if grid else place
    far = matrix(place)
    found = neighbour_weights(place, k).toarray()
    for i in range(cells):
        others = np.delete(far[i], i)
        near = far[i] <= np.sort(others)[min(k, cells - 1) - 1] * (1 + 1e-9)
        near[i] = False
        np.testing.assert_allclose(found[i], near / near.sum())


def test_moran_agreement_sees_smoothing() -> None:
    """A prediction that only smooths the truth correlates with it and still agrees less."""
    rng = np.random.default_rng(0)
    place = rng.random((300, 2))
    true = np.sin(place @ rng.standard_normal((2, 20)) * 6) + rng.standard_normal((300, 20))
    smooth = neighbour_weights(place, 12) @ true
    assert PearsonGene().score(smooth, true) > 0.3
    assert MoranAgreement().score(smooth, true, place) < 0.5
    assert MoranAgreement().score(true, true, place) == 1.0


@law
@given(seed=seeds, items=st.integers(2, 40))
def test_indices_of_agreement(seed: int, items: int) -> None:
    """Rand index and mutual information equal scikit-learn's, wherever either side has more than one part."""
    found, wanted = np.random.default_rng(seed).integers(3, size=(2, items))
    if min(len(np.unique(found)), len(np.unique(wanted))) > 1:
        assert agreement(found, wanted, "ari") == pytest.approx(adjusted_rand_score(wanted, found), abs=1e-9)
        assert agreement(found, wanted, "nmi") == pytest.approx(normalized_mutual_info_score(wanted, found), abs=1e-9)


@pytest.mark.parametrize("by", ["ari", "nmi", "accuracy"])
def test_clusters_may_be_numbered_in_any_way(by: str) -> None:
    """Perfect clusters under other numbers score 1, and clusters that know nothing score as chance does."""
    rng = np.random.default_rng(0)
    wanted = rng.integers(4, size=600)
    assert agreement((wanted + 1) % 4, wanted, by) == pytest.approx(1.0)
    chance = {"ari": 0.0, "nmi": 0.0, "accuracy": 0.25}[by]
    assert agreement(rng.integers(4, size=600), wanted, by) == pytest.approx(chance, abs=0.06)


def test_accuracy_is_the_best_matching() -> None:
    """Accuracy equals that of the best permutation of names, tried one by one."""
    rng = np.random.default_rng(1)
    found, wanted = rng.integers(4, size=(2, 50))
    best = max(np.mean(np.array(names)[found] == wanted) for names in itertools.permutations(range(4)))
    assert agreement(found, wanted, "accuracy") == pytest.approx(best)


def test_types_of_one_cell_and_of_none() -> None:
    """A type of one cell counts with what one cell can say, cells without a type do not; the sum is over types."""
    predicted, true = draw(8)
    kind = np.array([0] + [1] * 20 + [-1] * 19)
    alone, many = Rssd().score(predicted[:1], true[:1]), Rssd().score(predicted[1:21], true[1:21])
    assert RssdClass().score(predicted, true, kind) == pytest.approx((alone + many) / 2)
    assert RssdClass(pool="sum").score(predicted, true, kind) == pytest.approx(alone + many)
    assert RssdClass().score(predicted, true, np.full(40, -1)) == pytest.approx(Rssd().score(predicted, true))
    assert ClusterAgreement().score(predicted, true, np.full(40, -1)) == 0.0


@pytest.mark.parametrize("metric", [Calibration(), DistanceCalibration()], ids=str)
@pytest.mark.parametrize("count", [1, 2, 7, 20])
def test_calibration(metric: Metric, count: int) -> None:
    """Draws of the truth's own distribution are calibrated; draws that vary too little or too much are not."""
    rng = np.random.default_rng(0)
    middle = rng.standard_normal((400, 3))
    true, draws = middle + rng.standard_normal((400, 3)), middle + rng.standard_normal((count, 400, 3))
    gap = metric.score(true, true, draws)
    assert gap < 0.05
    if count > 1:
        tight, wide = (middle + share * (draws - middle) for share in (0.3, 3.0))
        assert metric.score(true, true, tight) > gap + 0.1
        if isinstance(metric, Calibration):
            assert metric.score(true, true, wide) > gap + 0.1


def test_joint_coherence() -> None:
    """Made pairs that follow the tissue's law score near 1, in any frame; the same cells with places shuffled don't."""
    rng = np.random.default_rng(0)
    slope = rng.standard_normal((2, 12))

    def tissue(cells: int) -> tuple[np.ndarray, np.ndarray]:
        place = rng.uniform(-1, 1, (cells, 2))
        return place @ slope + 0.3 * rng.standard_normal((cells, 12)), place

    known, real, made = tissue(600), tissue(300), tissue(250)
    turn = np.linalg.qr(rng.standard_normal((2, 2)))[0]
    score = JointCoherence().score
    good = score(made[0], real[0], made[1] @ turn + 5, real[1], *known)
    assert good > 0.95
    assert score(rng.permutation(made[0]), real[0], made[1], real[1], *known) < 0.3
    assert score(real[0], real[0], real[1], real[1], *known) == 1.0


@pytest.mark.parametrize("metric", [DistanceSpearman(), ContactF1(), KnnPreservation(), DistanceError()], ids=str)
def test_some_cells_stand_for_all(metric: Metric, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the limit evenly spread cells are judged: the score comes close to that of all, whatever their order."""
    predicted, true = draw(9, 900)
    whole = metric.score(predicted, true)
    for module in ("_arrays", "contact_f1"):
        monkeypatch.setattr(f"plugins.metrics.{module}.PAIRS", 900 * 200)
    some = metric.score(predicted, true)
    assert some != whole
    assert some == pytest.approx(whole, rel=0.08)
    order = np.random.default_rng(0).permutation(900)
    assert metric.score(predicted[order], true[order]) == pytest.approx(some)


@pytest.mark.realdata
def test_luna_by_class(luna: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    """LUNA's mean Spearman, and mean and sum of RSSD over its 22 cell classes."""
    predicted, true, classes = luna
    codes = np.unique(classes, return_inverse=True)[1]
    assert DistanceSpearmanMean().score(predicted, true) == pytest.approx(0.4368, abs=5e-5)
    assert RssdClass().score(predicted, true, codes) == pytest.approx(3.010, abs=5e-4)
    assert RssdClass(pool="sum").score(predicted, true, codes) == pytest.approx(66.22, abs=5e-3)
