"""Sparsifiers."""

from __future__ import annotations

import entmax as oracle
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from core.kinds import Sparsifier
from core.testing.draws import close, coins, gradients, law, randn, seeds
from core.testing.sparsifier import SparsifierLaws, few
from core.train.schedule import advance
from plugins.sparsifiers import blocks, newton
from plugins.sparsifiers.entmax import Entmax
from plugins.sparsifiers.mapping import entmax
from plugins.sparsifiers.sigmoid_budget import SigmoidBudget
from plugins.sparsifiers.soft_topk import SoftTopK
from plugins.sparsifiers.softmax import Softmax
from plugins.sparsifiers.temperature import Temperature
from plugins.sparsifiers.topk import TopK

warm = Temperature(start=2.0, end=0.5)
still = Temperature()


@pytest.mark.parametrize(
    "sparsifier",
    [
        Softmax(),
        Entmax(alpha=2.0, temperature=still),
        Entmax(alpha=1.5, temperature=still),
        st.builds(Entmax, alpha=st.floats(1.0, 2.0), temperature=st.just(warm)),
        st.builds(Entmax, alpha=st.floats(1.0, 2.0), mode=st.just("annealed"), temperature=st.just(still)),
        st.builds(Entmax, alpha=st.floats(1.0, 2.0), mode=st.just("learned"), temperature=st.just(still)),
        st.builds(TopK, k=st.integers(1, 12), temperature=st.just(warm)),
        st.builds(SoftTopK, k=st.integers(1, 12), temperature=st.just(warm)),
        st.builds(SigmoidBudget, budget=st.floats(0.01, 0.99), temperature=st.just(warm)),
    ],
    ids=["softmax", "sparsemax", "entmax15", "entmax", "annealed", "learned", "topk", "soft_topk", "sigmoid_budget"],
)
class TestSparsifiers(SparsifierLaws):
    """The laws of sparsifiers."""


def test_softmax_leaves_every_visible_source_some_weight() -> None:
    """Softmax is dense over what is visible, in proportion to the exponentials."""
    logits_BHQS = torch.tensor([[[[0.0, 1.0, 2.0, 50.0]]]], dtype=torch.float64)
    visible = torch.tensor([True, True, True, False])
    weights = Softmax().build(heads=1)(logits_BHQS, visible)[0, 0, 0]
    assert (weights[:3] > 0).all()
    torch.testing.assert_close(weights[1:3] / weights[:2], torch.full((2,), 2.718281828459045, dtype=torch.float64))


@pytest.mark.parametrize("temperature", [Temperature(start=0.5, end=0.5), Temperature(start=0.1, end=2.0)], ids=repr)
def test_a_finite_logit_is_no_hidden_one(temperature: Temperature) -> None:
    """Division by a temperature below 1 leaves the least finite logit finite: alone in its row it takes all."""
    least = torch.full((1, 1, 1, 1), torch.finfo(torch.float32).min)
    for alpha in (1.5, 1.7, 2.0):
        weigh = Entmax(alpha=alpha, temperature=temperature).build(heads=1)
        assert weigh(least, torch.tensor([True])).item() == 1.0
        assert weigh(torch.full_like(least, -torch.inf), torch.tensor([True])).item() == 0.0


def test_softmax_hides_nan() -> None:
    """A hidden logit of NaN is as good as any other, in value and gradient."""
    logits = torch.tensor([[[[0.3, float("nan"), -1.0]]]], requires_grad=True)
    weights = Softmax().build(heads=1)(logits, torch.tensor([True, False, True]))
    weights.square().sum().backward()
    assert torch.isfinite(weights).all()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


ALL = torch.tensor(True)
sizes = st.integers(1, 70) | st.sampled_from([257, 1000])
spreads = st.sampled_from([0.01, 1.0, 10.0, 1e3])


@law
@given(rows=st.integers(1, 4), sources=sizes, seed=seeds, spread=spreads, ties=st.booleans())
def test_fast_weights_are_those_of_sorting(rows: int, sources: int, seed: int, spread: float, ties: bool) -> None:
    """In float64 sparsemax and entmax-1.5 equal the exact sorting algorithms, values and gradients, with ties too."""
    logits = randn(seed, rows, sources) * spread
    logits = (logits.round() if ties else logits).requires_grad_()
    for alpha, sort in ((2.0, oracle.sparsemax), (1.5, oracle.entmax15)):
        fast, slow = entmax(logits, ALL, alpha), sort(logits, dim=-1)
        close([fast, *gradients(fast, [logits])], [slow, *gradients(slow, [logits])], 1e-7)


@law
@given(sources=sizes, seed=seeds, spread=spreads, alpha=st.floats(1.01, 2.0))
def test_any_exponent_is_that_of_bisection(sources: int, seed: int, spread: float, alpha: float) -> None:
    """In float64 any alpha equals a bisection to the last bit, in values and in the gradients of logits and alpha."""
    logits = (randn(seed, 3, sources) * spread).requires_grad_()
    exponent = torch.full((3, 1), alpha, dtype=torch.float64).requires_grad_()
    fast = entmax(logits, ALL, exponent)
    slow = oracle.entmax_bisect(logits, exponent, dim=-1, n_iter=100)
    found, wanted = (gradients(out, [logits, exponent]) for out in (fast, slow))
    close([fast, *found], [slow, *wanted], 1e-6)


@law
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 40), sizes),
    seed=seeds,
    spread=spreads,
    power=st.sampled_from([1, 2]),
)
def test_blocks_are_the_plain_operations(shape: tuple, seed: int, spread: float, power: int) -> None:
    """The blocked path gives what the plain one gives, whatever a block holds and hidden logits hold."""
    visible = coins(seed + 1, shape[0], 1, shape[2])
    content = torch.where(coins(seed + 2, *shape), torch.nan, torch.inf)
    for dtype, tolerance in ((torch.float64, 1e-9), (torch.float32, 2e-5)):
        logits = (randn(seed, *shape) * spread).to(dtype)
        logits = torch.where(visible, logits, content.to(dtype))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(blocks, "BLOCK", 3 * shape[2])
            fast = blocks.weigh(logits, visible, power)
            slope = blocks.pull(fast, logits.nan_to_num(0.0, 0.0, 0.0), power)
        close([fast], [newton.powered(logits, visible, power)], tolerance)
        assert torch.isfinite(slope).all()


@pytest.mark.parametrize("alpha", [1.0, 1.0005, 1.25, 1.5, 1.75, 2.0])
def test_float32_is_accurate(alpha: float) -> None:
    """In float32 rows sum to 1 within 1e-6 and weights are those of float64 within 2e-6, for long rows too."""
    for sources, spread in ((256, 1.0), (256, 2.0), (4096, 0.1), (4096, 30.0)):
        logits = randn(sources, 20, sources) * spread
        exact = entmax(logits.float().double(), ALL, alpha)
        weights = entmax(logits.float(), ALL, alpha)
        torch.testing.assert_close(weights.sum(-1), torch.ones(20), rtol=0, atol=1e-6)
        torch.testing.assert_close(weights.double(), exact, rtol=0, atol=2e-6)


def test_steep_rows_arrive() -> None:
    """Logits that fall slowly from a peak, where Newton's method takes most steps, are solved in float64 as well."""
    steep = -torch.logspace(-6, 2, 4096, dtype=torch.float64)
    skewed = -torch.empty(4096, dtype=torch.float64).exponential_(generator=torch.Generator().manual_seed(0))
    for logits in (steep, skewed, -torch.arange(4096.0, dtype=torch.float64) * 1e-3):
        for alpha, sort in ((2.0, oracle.sparsemax), (1.5, oracle.entmax15)):
            close([entmax(logits, ALL, alpha)], [sort(logits, dim=-1)], 1e-8)
            close([newton.powered(logits, ALL, round(1 / (alpha - 1)))], [sort(logits, dim=-1)], 1e-5)


def test_exponents_run_from_softmax_to_sparsemax() -> None:
    """At alpha = 1 the weights are softmax, near 1 nearly so, and the support shrinks as alpha grows."""
    logits = 3.0 * randn(0, 5, 40)
    close([entmax(logits, ALL, 1.0)], [logits.softmax(-1)], 1e-6)
    assert (entmax(logits, ALL, 1.001) - logits.softmax(-1)).abs().max() < 3e-3
    supports = [int((entmax(logits, ALL, alpha) > 0).sum()) for alpha in (1.0, 1.2, 1.5, 1.8, 2.0)]
    assert supports == sorted(supports, reverse=True)
    assert supports[0] == logits.numel()
    assert supports[-1] < supports[0] / 5


def test_visible_nan_stays_nan() -> None:
    """A NaN that is visible is not swallowed: the trainer's guard must see it."""
    logits = torch.tensor([[0.3, torch.nan, -1.0], [1.0, 0.0, 2.0]])
    for plugin in (
        Entmax(alpha=1.5, temperature=still),
        Entmax(alpha=1.3, temperature=still),
        TopK(k=2, temperature=still),
    ):
        weights = plugin.build(1)(logits, ALL)
        assert weights[0].isnan().any()
        assert torch.isfinite(weights[1]).all()


@pytest.mark.parametrize("alpha", [0.99, 2.01, 15.0])
def test_exponents_beyond_the_range_are_refused(alpha: float) -> None:
    """Alpha below softmax or above sparsemax is the user's mistake, told with the range."""
    with pytest.raises(ValueError, match=r"alpha must be >= 1.0 and <= 2.0"):
        Entmax(alpha=alpha, temperature=still)


def test_learned_exponents_start_where_told_and_stay_inside() -> None:
    """Each head has its alpha: it starts at the given one, moves with the gradient and never leaves [1, 2]."""
    module = Entmax(alpha=1.3, mode="learned", temperature=still).build(3)
    (free_H,) = module.parameters()
    torch.testing.assert_close(module.alpha(), torch.full((3, 1, 1), 1.3))
    logits = randn(0, 2, 3, 4, 9, dtype=torch.float32)
    module(logits, ALL)[:, 1].square().sum().backward()
    assert free_H.grad is not None
    assert free_H.grad[1] != 0
    assert free_H.grad[[0, 2]].eq(0).all()
    for far in (-1e4, 1e4):
        torch.nn.init.constant_(free_H, far)
        weights = module(logits, ALL)
        assert torch.isfinite(weights).all()
        assert all(torch.isfinite(slope).all() for slope in torch.autograd.grad(weights.square().sum(), [free_H]))


@law
@given(k=st.integers(1, 12), seed=seeds, sources=st.integers(1, 9))
def test_topk_keeps_k(k: int, seed: int, sources: int) -> None:
    """The k greatest visible logits keep the weights that softmax would give them alone; ties with the k-th stay."""
    logits, visible = randn(seed, 4, sources), coins(seed, 4, sources)
    module = TopK(k=k, temperature=still).build(1)
    weights = module(logits, visible)
    assert torch.equal((weights > 0).sum(-1), visible.sum(-1).clamp(max=k))
    kept = logits.masked_fill(weights == 0, -torch.inf)[visible.any(-1)]
    close([weights[visible.any(-1)]], [kept.softmax(-1)])
    assert torch.equal(module(torch.zeros(1, sources), ALL), torch.full((1, sources), 1.0 / sources))


@few
@given(k=st.integers(1, 12), seed=seeds, sources=st.integers(1, 30), spread=st.sampled_from([0.1, 1.0, 10.0]))
def test_soft_topk_is_the_projection(k: int, seed: int, sources: int, spread: float) -> None:
    """k times the weights lie in [0, 1] and sum to k; they equal the oracle's, and in the cold the k best share."""
    logits = (randn(seed, 3, sources) * spread).requires_grad_()
    weights = SoftTopK(k=k, temperature=still).build(1)(logits, ALL)
    assert weights.max() <= 1.0 / min(k, sources) + 1e-12
    if k < sources:
        slow = oracle.budget_bisect(logits, budget=k, dim=-1, n_iter=60)
        torch.testing.assert_close(weights * k, slow, rtol=0, atol=1e-7)
        cold = SoftTopK(k=k, temperature=Temperature(start=1e-6, end=1e-6)).build(1)(logits, ALL)
        hard = torch.zeros_like(logits).scatter(-1, logits.topk(k).indices, 1.0 / k)
        torch.testing.assert_close(cold, hard, rtol=0, atol=1e-6)


@law
@given(budget=st.floats(0.02, 0.98), seed=seeds, sources=st.integers(1, 30), spread=st.sampled_from([0.1, 1.0, 1e6]))
def test_sigmoid_budget_spends_its_budget(budget: float, seed: int, sources: int, spread: float) -> None:
    """Weights times budget * n are sigmoids of shifted logits: their log-odds differ from the logits by a constant."""
    logits = randn(seed, 3, sources) * spread
    weights = SigmoidBudget(budget=budget, temperature=still).build(1)(logits, ALL)
    kept = weights * budget * sources
    assert kept.max() <= 1.0 + 1e-6
    if spread <= 1.0:
        shift = torch.logit(kept) - logits
        close([shift], [shift.mean(-1, keepdim=True).expand_as(shift)], 1e-6)


def test_annealing_follows_its_schedule_and_stands_still_in_evaluation() -> None:
    """T falls along half a cosine and alpha rises linearly over their share; evaluation leaves both where they were."""
    module = Entmax(alpha=1.5, mode="annealed", share=0.5, temperature=Temperature(start=2.0, end=0.5)).build(2)
    logits = randn(1, 2, 2, 3, 8, dtype=torch.float32)
    wanted = {0.0: (1.0, 2.0), 0.25: (1.25, 1.4441143), 0.5: (1.5, 0.6004811), 0.6: (1.5, 0.5), 1.0: (1.5, 0.5)}
    for progress, (alpha, temperature) in wanted.items():
        module.train()
        advance(module, progress)
        by_hand = entmax(logits.double() / temperature, ALL, alpha).float()
        close([module(logits, ALL), module.eval()(logits, ALL)], [by_hand, by_hand], 1e-5)
    with pytest.raises(ValueError, match="from 0 to 1"):
        advance(module, 1.5)


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize(
    "sparsifier",
    [Softmax(), *(Entmax(alpha=1.5, mode=mode, temperature=still) for mode in ("fixed", "learned"))],
    ids=["softmax", "fixed", "learned"],
)
def test_compiles_whole(sparsifier: Sparsifier) -> None:
    """torch.compile takes the map in one graph, forward and backward, and the numbers stay."""
    module = sparsifier.build(2)
    visible = coins(1, 5, 9)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")

    def outcome(weigh: torch.nn.Module) -> list[Tensor]:
        logits = randn(0, 2, 2, 5, 9, dtype=torch.float32).requires_grad_()
        weights = weigh(logits, visible)
        return [weights.detach(), *gradients(weights, [logits, *module.parameters()])]

    close(outcome(compiled), outcome(module), 1e-5)


def test_functional_transforms_see_the_map() -> None:
    """torch.func differentiates it: the Jacobian of entmax-1.5 is diag(s) - s s^T / sum(s) with s = sqrt(p)."""
    logits = randn(3, 6)
    jacobian = torch.stack([torch.func.grad(lambda x, i=i: entmax(x, ALL, 1.5)[i])(logits) for i in range(6)])
    s = entmax(logits, ALL, 1.5).sqrt()
    close([jacobian], [s.diag() - torch.outer(s, s) / s.sum()])


PIECES = [
    Softmax(),
    Entmax(alpha=1.5, temperature=still),
    Entmax(alpha=2.0, temperature=still),
    Entmax(alpha=1.2, temperature=warm),
    TopK(temperature=still),
    SoftTopK(temperature=still),
    SigmoidBudget(temperature=still),
]


@pytest.mark.parametrize("shape", [(2, 2, 3, 0), (0, 2, 3, 4), (2, 2, 0, 4), (1, 1, 1, 1)], ids=str)
@pytest.mark.parametrize("sparsifier", PIECES, ids=repr)
def test_nothing_and_one(sparsifier: Sparsifier, shape: tuple) -> None:
    """No sources, no sets, no queries and a single pair are answered, with a gradient."""
    logits = randn(0, *shape, dtype=torch.float32).requires_grad_()
    weights = sparsifier.build(shape[1])(logits, ALL)
    weights.sum().backward()
    assert weights.shape == shape
    assert logits.grad is not None
    assert torch.equal(weights, torch.ones(shape)) or weights.numel() == 0


@pytest.mark.parametrize("sparsifier", PIECES, ids=repr)
def test_layout_and_the_ends_of_half_precision(sparsifier: Sparsifier) -> None:
    """Logits that are not contiguous weigh the same; float16 logits at its ends overflow nowhere."""
    module = sparsifier.build(2)
    logits = randn(0, 3, 4, 2, 5).transpose(1, 2)
    close([module(logits, ALL)], [module(logits.contiguous(), ALL)])
    ends = torch.tensor([[-65504.0, 65504.0, 65504.0]], dtype=torch.float16)
    weights = module(ends, ALL)
    assert weights[0, 1] == weights[0, 2] > 0
    assert abs(float(weights.sum()) - 1.0) < 1e-2


@pytest.mark.parametrize("logits", [[0.0, 0.0, -5.0], [2.0, 2.0, 2.0], [1.0, 1.0, 1.0, 1.0]])
@pytest.mark.parametrize("k", [2, 3, 8])
def test_soft_topk_is_flat_where_its_weights_do_not_move(logits: list[float], k: int) -> None:
    """Ties at the k-th place included, the gradient is that of differences wherever those of both sides agree."""
    module = SoftTopK(k=k, temperature=Temperature()).build(1)
    visible = torch.ones(1, 1, 1, len(logits), dtype=torch.bool)
    uneven = torch.arange(1.0, len(logits) + 1, dtype=torch.float64)

    def read(x: Tensor) -> Tensor:
        return (module(x.view(1, 1, 1, -1), visible) * uneven).sum()

    x = torch.tensor(logits, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(read(x), x)
    h = 1e-4
    for i in range(len(logits)):
        step = h * torch.nn.functional.one_hot(torch.tensor(i), len(logits)).double()
        ahead, behind = (
            (read(x.detach() + step) - read(x.detach())) / h,
            (read(x.detach()) - read(x.detach() - step)) / h,
        )
        if torch.isclose(ahead, behind, atol=1e-6):
            torch.testing.assert_close(slope[i], ahead, rtol=0, atol=1e-6)
