"""Training times: the laws of the kind, uniform marginals, and the share of clean streams."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from core.testing.time import TimeLaws
from plugins.times._law import warped
from plugins.times.aligned import Aligned
from plugins.times.cascaded import Cascaded
from plugins.times.independent import Independent
from plugins.times.only import Only
from plugins.times.shared import Shared, uniform
from plugins.times.shifted import Shifted

ALL_TIMES = [
    Shared(),
    Shared(stratified=False),
    Independent(),
    Independent(stratified=False),
    Independent(clean=0.0),
    Independent(clean=1.0),
    Cascaded(),
    Cascaded(clean="noised", law="logit_normal", early=0.1),
    Cascaded(share=0.8, stratified=False),
    Aligned(),
    Aligned(shift=1.0, law="logit_normal", stratified=False),
    Shifted(),
    Shifted(shift=3.0, stratified=False),
    Only(),
    Only(law="logit_normal", stratified=False),
]


@pytest.mark.parametrize("time", ALL_TIMES, ids=str)
class TestTime(TimeLaws):
    pass


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("stratified", [True, False])
@pytest.mark.parametrize("place", [0, 2])
def test_each_place_is_uniform(stratified, place):
    """The time of one fixed place in the batch is uniform over batches, so that strata bias nothing."""
    generator = rng(1)
    drawn = [uniform(3, generator, stratified=stratified)[place].item() for _ in range(2000)]
    assert stats.kstest(drawn, "uniform").pvalue > 1e-3


@settings(deadline=None, max_examples=40)
@given(count=st.integers(1, 300), seed=st.integers(0, 2**32))
def test_one_time_in_each_part(count, seed):
    """Stratified, every B-th part of [0, 1) holds exactly one time, up to the rounding of float32 at its edges."""
    t_B = uniform(count, rng(seed), stratified=True).double().sort().values
    edges = torch.arange(count + 1, dtype=torch.float64) / count
    assert (t_B >= edges[:-1] - 1e-7).all()
    assert (t_B <= edges[1:] + 1e-7).all()


def test_parts_are_shuffled():
    """A set's place in the batch says nothing of its time."""
    t_SB = torch.stack([uniform(64, rng(seed), stratified=True) for seed in range(40)])
    place = torch.arange(64.0).expand(40, 64)
    assert abs(torch.corrcoef(torch.stack([t_SB.flatten(), place.flatten()]))[0, 1]) < 0.08


@pytest.mark.parametrize("count", [1, 2, 3, 1000])
def test_never_rounds_up_to_clean(count, monkeypatch):
    """The largest draw, which rounds to 1 in float32 in the last part of [0, 1), is still a noised time."""
    monkeypatch.setattr(torch, "rand", lambda *size, generator, device: torch.full(size, 1 - 2**-24))
    assert uniform(count, rng(), stratified=True).max().item() == 1 - 2**-24


def test_shared_is_shared():
    """All streams of a set have the same time, and never a clean one."""
    times = Shared().draw(200, ("a", "b", "c"), rng())
    assert torch.equal(times["a"], times["b"])
    assert torch.equal(times["a"], times["c"])
    assert (times["a"] < 1).all()


def test_independent_is_independent():
    """Without clean streams the times of two streams are uncorrelated, stratified or not."""
    for time in (Independent(clean=0.0), Independent(clean=0.0, stratified=False)):
        times = time.draw(4000, ("a", "b"), rng())
        assert abs(torch.corrcoef(torch.stack([times["a"], times["b"]]))[0, 1]) < 0.05


@pytest.mark.parametrize("clean", [0.0, 0.25, 0.6, 1.0])
@pytest.mark.parametrize("streams", [("a", "b"), ("a", "b", "c")], ids=len)
def test_clean_share(clean, streams):
    """A share `clean` of the sets has exactly one clean stream, evenly chosen; stratified, to within one set."""
    count = 1200
    is_clean = torch.stack([t_B == 1 for t_B in Independent(clean=clean).draw(count, streams, rng()).values()])
    assert is_clean.sum(dim=0).max() <= 1
    for each in is_clean.sum(dim=1):
        assert abs(each.item() - clean * count / len(streams)) <= 1


def test_clean_share_without_strata():
    """Free draws give the share of clean streams that a binomial would."""
    is_clean = torch.stack([t == 1 for t in Independent(stratified=False).draw(4000, ("a", "b"), rng()).values()])
    assert stats.binomtest(int(is_clean.sum()), 4000, 0.25).pvalue > 1e-3
    assert stats.binomtest(int(is_clean[0].sum()), int(is_clean.sum()), 0.5).pvalue > 1e-3


def test_clean_leaves_the_other_times_alone():
    """Where one stream is clean the other's time is the one it has without `clean`, uniform as ever."""
    without = Independent(clean=0.0).draw(3000, ("a", "b"), rng())
    times = Independent(clean=0.5).draw(3000, ("a", "b"), rng())
    for name in ("a", "b"):
        noised = times[name] < 1
        assert torch.equal(times[name][noised], without[name][noised])
    assert stats.kstest(times["b"][times["a"] == 1].numpy(), "uniform").pvalue > 1e-3


def test_a_lone_stream_is_never_clean():
    """With one stream `clean` has no effect."""
    t_B = Independent(clean=1.0).draw(500, ("a",), rng())["a"]
    assert torch.equal(t_B, Independent(clean=0.0).draw(500, ("a",), rng())["a"])
    assert (t_B < 1).all()


def test_no_sets():
    """Times for no set at all are refused with the number that was asked for."""
    with pytest.raises(ValueError, match="0 sets"):
        Shared().draw(0, ("a",), rng())


CASCADES = [Cascaded(), Cascaded(clean="noised"), Cascaded(first="a", law="logit_normal", share=0.25, early=0.2)]


@pytest.mark.parametrize("time", CASCADES, ids=str)
@pytest.mark.parametrize("streams", [("a", "b"), ("a", "b", "c")], ids=len)
def test_a_cascade_teaches_one_stage_a_set(time, streams):
    """Sets of the first stream have the others as pure noise; in the others it is clean, or within beta of clean."""
    drawn = time.assign(500, streams, rng())
    first = time.first or streams[-1]
    chosen_B = drawn.active[first]
    assert chosen_B.sum() == round(time.share * 500)
    assert (drawn.times[first][chosen_B] < 1).all()
    given_B = drawn.times[first][~chosen_B]
    assert (given_B == 1).all() if time.clean == "exact" else (given_B >= 1 - time.beta).all() and (given_B < 1).any()
    for name in streams:
        if name != first:
            assert torch.equal(drawn.active[name], ~chosen_B)
            assert (drawn.times[name][chosen_B] == 0).all()
            assert (drawn.times[name][~chosen_B] > 0).all()


def test_share_of_free_and_of_small_draws():
    """Free draws choose the first stream with probability `share`; strata do so on average, in batches of one too."""
    for time, count in ((Cascaded(share=0.3, stratified=False), 4000), (Aligned(share=0.3, stratified=False), 4000)):
        assert abs(time.assign(count, ("a", "b"), rng()).active["b"].float().mean() - 0.3) < 4 * (0.21 / count) ** 0.5
    ones = [Cascaded(share=0.3).assign(1, ("a", "b"), rng(seed)).active["b"].item() for seed in range(1000)]
    assert abs(sum(ones) / 1000 - 0.3) < 4 * (0.21 / 1000) ** 0.5


def test_logit_normal():
    """The logit of a time is normal with the asked mean and deviation, stratified or not."""
    for stratified in (True, False):
        time = Cascaded(law="logit_normal", first_mean=-1.2, first_sd=1.0, stratified=stratified)
        t_B = time.assign(4000, ("a",), rng()).times["a"].double()
        assert stats.kstest(torch.logit(t_B).numpy(), "norm", args=(-1.2, 1.0)).pvalue > 1e-3


@settings(deadline=None, max_examples=30)
@given(shift=st.floats(1.0, 20.0), seed=st.integers(0, 2**32))
def test_aligned_streams_keep_their_distance(shift, seed):
    """One stream's time is the other's, warped by the shift: the first is ahead in every set."""
    drawn = Aligned(shift=shift, law="logit_normal").assign(64, ("a", "b"), rng(seed))
    assert torch.allclose(drawn.times["b"], warped(drawn.times["a"], shift), atol=1e-5)
    assert (drawn.times["b"] >= drawn.times["a"] - 1e-6).all()


@pytest.mark.parametrize("shift", [0.5, 1.0, 4.0])
def test_shifted_times_are_uniform_ones_that_were_moved(shift):
    """Undone, the shift leaves uniform times, of each stream on its own; a shift below 1 goes towards the noise."""
    times = Shifted(shift=shift, stratified=False).draw(3000, ("a", "b"), rng())
    for t_B in times.values():
        assert stats.kstest((t_B / (shift + (1 - shift) * t_B)).numpy(), "uniform").pvalue > 1e-3
    assert abs(torch.corrcoef(torch.stack([times["a"], times["b"]]))[0, 1]) < 0.06
    if shift == 0.5:
        u_B = times["a"] / (shift + (1 - shift) * times["a"])
        torch.testing.assert_close(times["a"], 0.5 * u_B / (1 - 0.5 * u_B))


def test_early_times_of_those_that_come_later():
    """A share `early` of the sets that teach the others has a uniform time of [0, .5); the rest keeps the law."""
    time = Cascaded(early=0.3, law="logit_normal", other_mean=4.0, other_sd=0.1, stratified=False)
    drawn = time.assign(6000, ("a", "b"), rng())
    t_B = drawn.times["a"][drawn.active["a"]]
    soon_B = t_B[t_B < 0.5]
    assert abs(len(soon_B) / len(t_B) - 0.3) < 4 * (0.21 / len(t_B)) ** 0.5
    assert stats.kstest((2 * soon_B).numpy(), "uniform").pvalue > 1e-3
    assert (t_B[t_B >= 0.5] > 0.9).all()


def test_how_far_from_clean():
    """Noised, the first stream is uniform in [1 - beta, 1) while the others are taught."""
    drawn = Cascaded(clean="noised", beta=0.4, stratified=False).assign(5000, ("a", "b"), rng())
    t_B = drawn.times["b"][drawn.active["a"]]
    assert stats.kstest(((t_B - 0.6) / 0.4).numpy(), "uniform").pvalue > 1e-3


def test_a_stream_that_is_not_there():
    """A name that is no stream is refused, with those that are."""
    for time in (Cascaded(first="latnet"), Aligned(first="latnet")):
        with pytest.raises(ValueError, match="'latnet' is no stream of this model, which has expression, latent"):
            time.assign(4, ("expression", "latent"), rng())
