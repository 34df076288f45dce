"""Extractors: the laws of the kind, and what each of them is."""

from __future__ import annotations

import itertools
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from core.errors import UserError
from core.kinds.extractor import Extractor
from core.testing.draws import law, seeds
from core.testing.extractor import COLUMNS, ITEMS, ExtractorLaws
from core.train.streams import Streams
from plugins.extractors import pca as principal
from plugins.extractors._normalised import Moments
from plugins.extractors.pca import Pca, components
from plugins.extractors.precomputed import Precomputed, write
from plugins.extractors.random_projection import RandomProjection
from plugins.extractors.shuffled import Shuffled
from realdata import realdata

SIMPLE = [
    Pca(), Pca(k=3, covers="all"), Pca(k=4, times="value", target_std=0.5), RandomProjection(k=4),
    RandomProjection(k=3, seed=5, covers="all"), Shuffled(of=Pca(k=4)),
]  # fmt: skip
NAMES = tuple(f"c{i}" for i in range(COLUMNS))


@pytest.mark.parametrize("extractor", SIMPLE, ids=repr)
class TestExtractors(ExtractorLaws):
    """Every built-in extractor that reads no file obeys the laws."""


def draw(seed: int, items: int = ITEMS, columns: int = COLUMNS) -> np.ndarray:
    """Different items, about half of their entries 0."""
    rng = np.random.default_rng(seed)
    return (rng.gamma(2.0, 1.0, (items, columns)) * (rng.random((items, columns)) < 0.6)).astype(np.float32)


POOL = np.concatenate([draw(0, 3 * ITEMS), np.zeros((1, COLUMNS), np.float32)])


@pytest.fixture(scope="module", params=[False, True], ids=["no mask", "mask"])
def extractor(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Precomputed:
    path = tmp_path_factory.mktemp("precomputed") / "latents.h5"
    rng = np.random.default_rng(1)
    latents = rng.standard_normal((*POOL.shape, 5)).astype(np.float32)
    covered = rng.random(POOL.shape) < 0.4 if request.param else None
    more = rng.standard_normal((len(POOL), 2)).astype(np.float32)  # a column that is not asked for
    latents = np.concatenate([latents, latents[:, :1], latents[:, :1]], axis=1)
    covered = None if covered is None else np.concatenate([covered, covered[:, :2]], axis=1)
    values, names = np.concatenate([POOL, more], axis=1), (*NAMES, "x", "y")
    halves = (slice(0, 20), slice(20, None))
    write(path, names, ((values[h], latents[h], None if covered is None else covered[h]) for h in halves))
    return Precomputed(file=str(path))


class TestPrecomputed(ExtractorLaws):
    """The laws of extractors, for items that the file holds."""

    def items(self, names: tuple[str, ...], seed: int, count: int) -> np.ndarray:
        rows = np.random.default_rng(seed).choice(len(POOL) - 1, count, replace=False)
        place = {name: i for i, name in enumerate(NAMES)}
        # Names that the file lacks have no values in it.
        return POOL[rows][:, [place.get(name, 0) for name in names]]


@law
@given(cuts=st.lists(st.integers(0, 30), max_size=4), shift=st.floats(-1e3, 1e3), seed=seeds)
def test_moments_in_one_pass(cuts: list[int], shift: float, seed: int) -> None:
    """Blocks of any length, empty ones too, give the mean and deviation of the whole."""
    whole = np.random.default_rng(seed).standard_normal((30, 3)) + shift
    moments = Moments(3)
    ends = [0, *sorted(cuts), 30]
    for first, end in itertools.pairwise(ends):
        moments.update(whole[first:end])
    assert moments.count == 30
    np.testing.assert_allclose(moments.mean_D, whole.mean(0), rtol=1e-12, atol=1e-9)
    np.testing.assert_allclose(moments.std_D, whole.std(0), rtol=1e-9)


@law
@given(seed=seeds, k=st.integers(1, 8), few=st.booleans())
def test_components(seed: int, k: int, few: bool) -> None:
    """The leading right singular vectors of the centred items, by either algorithm."""
    values = draw(seed, 30)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(principal, "EXACT", 0 if few else 512)
        mean_G, loadings_GD = components(values, np.arange(COLUMNS), k)
    wide = values.astype(np.float64)
    np.testing.assert_allclose(mean_G, wide.mean(0))
    vectors_DG = np.linalg.svd(wide - wide.mean(0))[2][:k]
    np.testing.assert_allclose(np.abs((vectors_DG * loadings_GD.T).sum(1)), 1.0, atol=1e-5)
    assert (np.take_along_axis(loadings_GD, np.abs(loadings_GD).argmax(0)[None], 0) > 0).all()


@pytest.mark.parametrize("times", ["scores", "value"])
def test_pca_is_loading_times_scores_or_value(times: str) -> None:
    """The formula in float64, normalised; with scores and all entries the raw sum is the reconstruction."""
    values = draw(3)
    made = Pca(k=4, times=times, covers="all", target_std=1.0).fit(values, NAMES, Streams(0))
    wide = values.astype(np.float64)
    apart = wide - wide.mean(0)
    loadings_GD = np.linalg.svd(apart)[2][:4].T
    raw = loadings_GD * (apart @ loadings_GD)[:, None] if times == "scores" else loadings_GD * wide[..., None]
    np.testing.assert_allclose(raw.sum(-1), apart @ loadings_GD @ loadings_GD.T) if times == "scores" else None
    wanted = (raw - raw.mean((0, 1))) / raw.std((0, 1))
    found = made(torch.from_numpy(values)).z_NKD.double().numpy()
    sign = np.sign((found * wanted).sum((0, 1))) if times == "value" else 1.0
    np.testing.assert_allclose(found * sign, wanted, atol=2e-4)


def test_random_loadings_are_those_of_names() -> None:
    """The same for a name whatever the other columns, up to the scale; another seed draws others."""
    few, many = (RandomProjection(k=3)._loadings(names) for names in (NAMES[:5], NAMES))
    np.testing.assert_allclose(few * np.sqrt(5), (many * np.sqrt(COLUMNS))[:5], rtol=1e-6)
    assert not np.allclose(RandomProjection(k=3, seed=1)._loadings(NAMES), many)


def test_the_standard_deviation_is_that_of_values() -> None:
    """Unless another is asked for, latents are as wide as the training values."""
    values = draw(4)
    assert Pca(k=2).fit(values, NAMES, Streams(0)).std == pytest.approx(values.std(dtype=np.float64))
    assert Pca(k=2, target_std=0.3).fit(values, NAMES, Streams(0)).std == 0.3


def test_only_training_items_count() -> None:
    """What is fitted does not change when other items are looked at."""
    made = Pca(k=3).fit(draw(5), NAMES, Streams(0))
    before = made.state()
    made(torch.from_numpy(100 * draw(6)))
    after = made.state()
    assert all(np.array_equal(before[key], after[key]) for key in before)


def test_a_draw_of_items() -> None:
    """`fitted_on` takes so many items, a draw of the run's seed; more than there are is all."""
    from plugins.extractors.scgpt_random import ScgptRandom

    values = draw(7, 80)
    slopes = [
        ScgptRandom(embed=4, layers=1, fitted_on=most).fit(values, NAMES, Streams(seed)).state()["slope"]
        for most, seed in ((64, 0), (64, 0), (64, 1), (None, 0), (80, 1), (4096, 2))
    ]
    assert np.array_equal(slopes[0], slopes[1])
    assert not np.array_equal(slopes[0], slopes[2])
    assert all(np.array_equal(slopes[3], other) for other in slopes[4:])


# Shuffled


@law
@given(seed=seeds)
def test_shuffled_is_a_permutation_without_a_fixed_point(seed: int) -> None:
    """Each training item has the latents of another, each other's once; another seed deals them otherwise."""
    values = draw(seed)
    plain = Pca(k=3).fit(values, NAMES, Streams(0))(torch.from_numpy(values))
    found = [Shuffled(of=Pca(k=3)).fit(values, NAMES, Streams(s))(torch.from_numpy(values)) for s in (0, 1)]
    dealt = []
    for latents in found:
        same_NN = (latents.z_NKD[:, None] == plain.z_NKD[None]).all((2, 3))
        assert (same_NN.sum(0) == 1).all()
        assert (same_NN.sum(1) == 1).all()
        assert not same_NN.diagonal().any()
        dealt.append(same_NN.int().argmax(1))
        assert torch.equal(latents.covered_NK, plain.covered_NK[dealt[-1]])
    assert not torch.equal(*dealt)


def test_shuffled_cuts_the_tie() -> None:
    """A regression of values on latents explains them; on shuffled latents it explains nothing."""
    rng = np.random.default_rng(0)
    values = np.exp(rng.standard_normal((400, 2)) @ rng.standard_normal((2, COLUMNS)) / 3).astype(np.float32)

    def explained(made: Extractor) -> float:
        z_NF = made.fit(values, NAMES, Streams(0))(torch.from_numpy(values)).z_NKD.flatten(1)
        x_NF = torch.cat([z_NF[:, ::10], torch.ones(len(z_NF), 1)], 1).double()
        fit = torch.linalg.lstsq(x_NF[:200], torch.from_numpy(values[:200]).double()).solution
        left = torch.from_numpy(values[200:]).double() - x_NF[200:] @ fit
        return 1 - float(left.square().sum() / (values[200:] - values[:200].mean(0)).__pow__(2).sum())

    assert explained(Pca(k=2)) > 0.5
    assert explained(Shuffled(of=Pca(k=2))) < 0.05


def test_bank() -> None:
    """With fewer kept items than there are, latents are those of kept ones, of which there are so many."""
    values = draw(8, 100)
    made = Shuffled(of=Pca(k=3), bank=64).fit(values, NAMES, Streams(0))
    plain = Pca(k=3).fit(values, NAMES, Streams(0))(torch.from_numpy(values)).z_NKD
    found = made(torch.from_numpy(values)).z_NKD
    origins = (found[:, None] == plain[None]).all((2, 3)).int().argmax(1)
    assert len({*origins.tolist()}) == 64


# What cannot be


@pytest.mark.parametrize(
    ("extractor", "values", "text"),
    [
        (Pca(k=19), draw(0), "vary in at most 18 directions; k=19 is too many"),
        (Pca(k=3), np.eye(3, COLUMNS, dtype=np.float32)[[0, 1] * 5], "vary in 1 directions only; take k <= 1"),
        (Pca(), np.ones((9, COLUMNS), np.float32), "all 9 training items are the same"),
        (RandomProjection(), np.zeros((9, COLUMNS), np.float32), "all 9 training items are the same"),
        (Shuffled(of=RandomProjection()), draw(0)[:1], "all 1 training items are the same"),
        (Pca(), np.where(draw(0) > 3, np.nan, draw(0)), "has nan in column 'c"),
        (Pca(), draw(0)[0], "fitted on items"),
    ],
    ids=str,
)  # fmt: skip
def test_refused_to_fit(extractor: Extractor, values: np.ndarray, text: str) -> None:
    """One sentence that says what was given."""
    with pytest.raises(UserError, match=text):
        extractor.fit(values, NAMES, Streams(0))


def test_kept_statistics_of_another_extractor() -> None:
    """Other parameters, other columns and another extractor are told apart."""
    state = Pca(k=3).fit(draw(0), NAMES, Streams(0)).state()
    for other, names, text in (
        (Pca(k=4), None, "where this extractor has"),
        (Shuffled(of=Pca(k=3)), None, "lack 'ring.values'"),
        (Pca(k=3), (*NAMES[1:], "C0"), r"1 of 20 are missing, such as 'c0'; 1 are unknown, such as 'C0'"),
        (Pca(k=3), (*NAMES[1:], "c1"), "two are called 'c1'"),
    ):
        with pytest.raises(UserError, match=text):
            other.restore(state, names)


def test_precomputed_lacks_an_item(extractor: Precomputed) -> None:
    """Items that the file lacks are counted, and a file of other columns is refused."""
    made = extractor.fit(POOL[:9], NAMES, Streams(0))
    with pytest.raises(UserError, match="has no latents for 1 of 3 items"):
        made(torch.from_numpy(np.concatenate([POOL[:2], draw(99, 1)])))
    with pytest.raises(UserError, match=r"has none of the 20 columns, such as 'ENSG0'"):
        extractor.fit(POOL[:9], [f"ENSG{i}" for i in range(COLUMNS)], Streams(0))


def test_precomputed_files_that_cannot_be_used(tmp_path: Path) -> None:
    """Missing, of another format, without a dataset, of shapes that do not fit: one sentence."""
    values, latents = draw(0, 4), np.ones((4, COLUMNS, 2), np.float16)

    def made(**datasets: object) -> Path:
        path = tmp_path / f"{len([*tmp_path.iterdir()])}.h5"
        with h5py.File(path, "w") as file:
            for name, data in datasets.items():
                file[name] = data
        return path

    text = tmp_path / "text.h5"
    text.write_text("no")
    names = list(NAMES)
    for path, said in (
        (tmp_path / "absent.h5", "there is no file"),
        (text, "is no HDF5 file"),
        (made(names=names, values=values), "has no dataset 'latents' with 3 axes"),
        (made(names=names, values=values, latents=values), "has no dataset 'latents' with 3 axes"),
        (made(names=names[1:], values=values, latents=latents), "19 names"),
        (made(names=names, values=values, latents=latents[:3]), r"latents \(3, 20, 2\)"),
        (made(names=["c0"] * 20, values=values, latents=latents), "two are called 'c0'"),
    ):
        with pytest.raises(UserError, match=said):
            _ = Precomputed(file=str(path)).width
    wild = made(names=names, values=values, latents=np.full_like(latents, np.nan))
    with pytest.raises(UserError, match="not finite"):
        Precomputed(file=str(wild)).fit(values, NAMES, Streams(0))


def test_write_is_whole_or_not_at_all(tmp_path: Path) -> None:
    """A part that does not fit leaves the file as it was, and nothing beside it."""
    path = tmp_path / "latents.h5"
    values, latents = draw(0, 4), np.ones((4, COLUMNS, 2), np.float16)
    write(path, NAMES, [(values, latents, None)])
    assert Precomputed(file=str(path)).width == 2
    kept = path.read_bytes()
    for parts in (
        [],
        [(values, latents, None), (values, latents[..., :1], None)],
        [(values, latents, values > 0), (values, latents, None)],
        [(values[:, 1:], latents[:, 1:], None)],
    ):
        with pytest.raises(UserError):
            write(path, NAMES, parts)
    assert [*tmp_path.iterdir()] == [path]
    assert path.read_bytes() == kept
    with pytest.raises(UserError, match="cannot be written"):
        write(tmp_path / "absent" / "latents.h5", NAMES, [(values, latents, None)])


@pytest.mark.realdata
def test_a_screen() -> None:
    """On a real screen latents of held-out cells tell which are perturbed, and latents of other cells do not."""
    import anndata
    from sklearn.linear_model import RidgeClassifier
    from sklearn.metrics import roc_auc_score

    screen = anndata.read_h5ad(realdata("perturbation/papalexi2021_rep1_rep2.h5ad"))
    screen = screen[screen.obs["perturbation"].isin(["control", "STAT1", "IFNGR1"]).to_numpy()]
    order = np.random.default_rng(0).permutation(screen.n_obs)[:800]
    counts = np.asarray(screen.X.todense())[order]
    values = np.log1p(counts * 1e3 / np.maximum(counts.sum(1, keepdims=True), 1)).astype(np.float32)
    control = (screen.obs["perturbation"] == "control").to_numpy()[order]

    def told(made: Extractor) -> float:
        """Area under the curve of a ridge classifier, of cells that neither it nor the extractor was fitted on."""
        fitted = made.fit(values[:500], list(screen.var_names), Streams(0))
        z_NF = fitted(torch.from_numpy(values)).z_NKD.flatten(1).numpy()
        judge = RidgeClassifier(alpha=1e3).fit(z_NF[:500], control[:500])
        return float(roc_auc_score(control[500:], judge.decision_function(z_NF[500:])))

    assert told(Pca(k=8)) > 0.85
    assert abs(told(Shuffled(of=Pca(k=8))) - 0.5) < 0.1
