"""The shared losses, one by one: each against its formula written out slowly, and what its paper promises."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import attrs
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score
from torch import Tensor

from core.kinds.loss import LossFacts, ScoreLoss
from core.testing.draws import close, coins, randn, seeds
from core.train.streams import Streams
from plugins.losses.aucm import Aucm
from plugins.losses.bce import Bce
from plugins.losses.direction_rank import DirectionRank
from plugins.losses.immax import Immax
from plugins.losses.info_nce import InfoNce
from plugins.losses.mmd import Mmd
from plugins.losses.mse import Mse
from plugins.losses.ortho import Ortho
from plugins.losses.pair_logistic import PairLogistic
from plugins.losses.smooth_ap import SmoothAp
from plugins.losses.soap import Soap
from plugins.losses.spectral import Spectral
from plugins.losses.vicreg_cov import VicregCov
from plugins.losses.vicreg_var import VicregVar
from plugins.systems.spatial import Spatial

few = settings(deadline=None, max_examples=8)


def value(terms: dict[str, Tensor]) -> Tensor:
    (only,) = terms.values()
    return only


def agree(fast: Callable[..., Tensor], slow: Callable[..., Tensor], *arrays: Tensor, tolerance: float = 1e-9) -> None:
    """Values and gradients of two functions of the arrays."""
    outcomes = []
    for function in (fast, slow):
        moving = [x.clone().requires_grad_() for x in arrays]
        out = function(*moving)
        outcomes.append([out.detach(), *torch.autograd.grad(out, moving, materialize_grads=True, allow_unused=True)])
    close(*outcomes, tolerance=tolerance)


def exactly(numbers: float | list[float]) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def softplus(x: Tensor) -> Tensor:
    return torch.log1p(torch.exp(x))


def pairs(s: Tensor, positive: Tensor) -> list[tuple[Tensor, Tensor]]:
    return [(s[i], s[j]) for i in range(len(s)) if positive[i] for j in range(len(s)) if not positive[j]]


def slow_smooth_ap(s: Tensor, positive: Tensor, tau: float) -> Tensor:
    precisions = []
    for i in range(len(s)):
        if positive[i]:
            near = [torch.sigmoid((s[j] - s[i]) / tau) for j in range(len(s)) if j != i and positive[j]]
            all_ = [torch.sigmoid((s[j] - s[i]) / tau) for j in range(len(s)) if j != i]
            precisions.append((1 + sum(near)) / (1 + sum(all_)))
    return 1 - sum(precisions) / len(precisions)


def slow_soap(s: Tensor, positive: Tensor, margin: float) -> Tensor:
    ratios = []
    for i in range(len(s)):
        if positive[i]:
            l_ij = [torch.relu(margin - s[i] + s[j]) ** 2 for j in range(len(s))]
            ratios.append(sum(cost for cost, p in zip(l_ij, positive, strict=True) if p) / sum(l_ij))
    return 1 - sum(ratios) / len(ratios)


def slow_aucm(s: Tensor, positive: Tensor, margin: float) -> Tensor:
    up, down = s[positive], s[~positive]
    spread = up.var(correction=0) + down.var(correction=0)
    return spread + torch.relu(margin - up.mean() + down.mean()) ** 2


SLOW_SCORES: dict[str, tuple[ScoreLoss, Callable[[Tensor, Tensor], Tensor]]] = {
    "bce": (
        Bce(pos_weight=3.0),
        lambda s, y: F.binary_cross_entropy_with_logits(s, y.double(), pos_weight=torch.tensor(3.0).double()),
    ),
    "bce_prior": (
        Bce(prior=0.05, drawn=0.5),
        lambda s, y: F.binary_cross_entropy_with_logits(s - math.log(0.05 / 0.95), y.double()),
    ),
    "pair_logistic": (
        PairLogistic(),
        lambda s, y: torch.stack([softplus(low - high) for high, low in pairs(s, y)]).mean(),
    ),
    "smooth_ap": (SmoothAp(tau=0.3), lambda s, y: slow_smooth_ap(s, y, 0.3)),
    "soap": (Soap(margin=0.7), lambda s, y: slow_soap(s, y, 0.7)),
    "aucm": (Aucm(margin=1.3), lambda s, y: slow_aucm(s, y, 1.3)),
    "immax": (
        Immax(alpha=0.3),
        lambda s, y: (softplus(-s[y] / 0.3).mean() + softplus(s[~y] / 0.7).mean()) / 2,
    ),
}


@pytest.mark.parametrize("name", SLOW_SCORES)
@few
@given(count=st.integers(2, 12), seed=seeds)
def test_scores(name: str, count: int, seed: int) -> None:
    """A loss of scores, among padding, is its formula over the real items."""
    loss, slow = SLOW_SCORES[name]
    positive_N, real_N = coins(seed + 1, 2 * count), coins(seed + 2, 2 * count)
    positive_N[0], positive_N[1], real_N[:2] = True, False, True
    agree(
        lambda s_N: value(loss(s_N, positive_N, real_N)),
        lambda s_N: slow(s_N[real_N], positive_N[real_N]),
        2 * randn(seed, 2 * count),
    )


@few
@given(count=st.integers(3, 40), seed=seeds)
def test_smooth_ap_becomes_average_precision(count: int, seed: int) -> None:
    """With steps far narrower than the gaps between scores, smooth_ap is 1 - average precision."""
    scores_N = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).double()
    positive_N = coins(seed, count)
    positive_N[0] = True
    told = value(SmoothAp(tau=1e-3)(scores_N, positive_N, torch.ones(count, dtype=torch.bool)))
    assert abs(told - (1 - average_precision_score(positive_N.numpy(), scores_N.numpy()))) < 1e-9


@few
@given(prior=st.floats(0.02, 0.5), drawn=st.sampled_from([0.1, 0.25, 0.5, 0.8]))
def test_prior_correction(prior: float, drawn: float) -> None:
    """Trained on batches of one share of positives, the corrected score of an item that says nothing is the prior's."""
    positive_N = torch.arange(20) < round(20 * drawn)
    score = torch.tensor(math.log(prior / (1 - prior)), dtype=torch.float64, requires_grad=True)
    real_N = torch.ones(20, dtype=torch.bool)
    value(Bce(prior=prior, drawn=drawn)(score.expand(20), positive_N, real_N)).backward()
    assert score.grad is not None
    assert abs(score.grad) < 1e-12


def test_equal_priors_correct_nothing() -> None:
    """Where batches are drawn as the world is, the correction is the identity."""
    case = randn(0, 9), coins(1, 9), coins(2, 9)
    close([value(Bce(prior=0.2, drawn=0.2)(*case))], [value(Bce()(*case))])


@pytest.mark.parametrize("eta", [0.1, 0.5, 0.9])
def test_immax_is_no_probability(eta: float) -> None:
    """At alpha = 1/2 the best score of an item is half the logit of its posterior under equal classes."""
    score = torch.tensor(0.5 * math.log(eta / (1 - eta)), dtype=torch.float64, requires_grad=True)
    one = torch.ones(1, dtype=torch.bool)
    up, down = (value(Immax()(score[None], y, one)) for y in (one, ~one))
    (eta * up + (1 - eta) * down).backward()
    assert score.grad is not None
    assert abs(score.grad) < 1e-12


@few
@given(seed=seeds, steps=st.integers(1, 5))
def test_soap_over_steps(seed: int, steps: int) -> None:
    """The module's averages and gradients are those of the algorithm, kept for each positive by hand."""
    loss, items = Soap(margin=0.8, rate=0.3), 12
    module = loss.build(LossFacts(items=items)).double().train()
    kept: dict[int, tuple[float, float]] = {}
    for step in range(steps):
        numbers = torch.randperm(items, generator=torch.Generator().manual_seed(seed + step))[:8]
        positive_N, real_N = numbers < 5, coins(seed + 10 + step, 8, heads=0.8)
        scores_N = randn(seed + 20 + step, 8).requires_grad_()
        told = value(module(scores_N, positive_N, real_N, numbers))
        (slope_N,) = torch.autograd.grad(told, scores_N)
        chosen = [i for i in range(8) if positive_N[i] and real_N[i]]
        weighted, ratios = [], []
        for i in chosen:
            others = [j for j in range(8) if real_N[j]]
            l_ij = [torch.relu(0.8 - scores_N[i] + scores_N[j]) ** 2 for j in others]
            near = sum(float(cost.detach()) for cost, j in zip(l_ij, others, strict=True) if positive_N[j]) / len(
                others
            )
            whole = sum(float(cost.detach()) for cost in l_ij) / len(others)
            u1, u2 = kept.get(int(numbers[i]), (near, whole))
            u1, u2 = 0.7 * u1 + 0.3 * near, 0.7 * u2 + 0.3 * whole
            kept[int(numbers[i])] = (u1, u2)
            ratios.append(u1 / u2)
            weighted += [
                (u1 - u2 * bool(positive_N[j])) / u2**2 * cost / (len(others) * len(chosen))
                for cost, j in zip(l_ij, others, strict=True)
            ]
        if chosen:
            (wanted_N,) = torch.autograd.grad(torch.stack(weighted).sum(), scores_N)
            close([told.detach(), slope_N], [1 - exactly(ratios).mean(), wanted_N])
    for number in range(items):
        u1, u2 = kept.get(number, (0.0, 0.0))
        close([module.running[number]], [exactly([u1, u2 - u1])])


def test_soap_twice_in_a_batch() -> None:
    """A positive that a batch holds twice moves its average once, to the mean of both, whichever comes first."""
    kept = []
    for order in ([0, 1, 2, 3], [3, 2, 1, 0]):
        module = Soap(rate=0.5).build(LossFacts(items=3)).double().train()
        scores_N, numbers_N = torch.tensor([0.3, -0.4, 0.9, 0.0]).double()[order], torch.tensor([2, 2, 0, 1])[order]
        positive_N = torch.tensor([True, True, False, True])[order]
        for _ in range(2):
            module(scores_N, positive_N, torch.ones(4, dtype=torch.bool), numbers_N)
        kept.append(module.running)
    close(kept[:1], kept[1:])
    means_P2 = Soap().means(scores_N, positive_N, torch.ones(4, dtype=torch.bool))
    close([kept[1][2]], [means_P2[numbers_N[positive_N] == 2].mean(0)])


def test_soap_refuses() -> None:
    """It says what it lacks: the number of items, the items' numbers, numbers that the split has."""
    with pytest.raises(ValueError, match="LossFacts"):
        Soap().build(LossFacts())
    module, case = Soap().build(LossFacts(items=3)), (randn(0, 2), torch.tensor([True, False]), torch.ones(2) > 0)
    with pytest.raises(ValueError, match="none were given"):
        module(*case)
    with pytest.raises(ValueError, match="numbered 0 to 2; got 3 to 3"):
        module(*case, torch.tensor([3, 0]))
    before = module.running.clone()
    module.eval()(*case)
    assert torch.equal(module.running, before)


@few
@given(seed=seeds, count=st.integers(2, 12))
def test_aucm_saddle(seed: int, count: int) -> None:
    """At the optimum of a, b and alpha the module is the pure loss, in values and slopes; elsewhere it is a saddle."""
    loss = Aucm(margin=1.0)
    positive_N, real_N, scores_N = coins(seed + 1, count), torch.ones(count, dtype=torch.bool), randn(seed, count)
    positive_N[0], positive_N[1] = True, False
    module = loss.build(LossFacts()).double().train()
    a, b = scores_N[positive_N].mean(), scores_N[~positive_N].mean()
    best = [a, b, (1.0 + b - a).clamp(min=0)]

    def told(s_N: Tensor, shift: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> Tensor:
        with torch.no_grad():
            for parameter, at, by in zip((module.a, module.b, module.alpha), best, shift, strict=True):
                parameter.copy_(at + by)
        return value(module(s_N, positive_N, real_N))

    agree(told, lambda s_N: value(loss(s_N, positive_N, real_N)), scores_N)
    middle = told(scores_N).detach()
    for by in (-0.1, 0.1):
        assert told(scores_N, (by, 0.0, 0.0)) > middle
        assert told(scores_N, (0.0, by, 0.0)) > middle
        assert told(scores_N, (0.0, 0.0, by)) <= middle


def test_aucm_alpha_climbs() -> None:
    """Plain descent climbs in alpha, and an alpha below 0 counts as 0 and is led back only where it should rise."""
    scores_N, positive_N = torch.tensor([0.0, 0.0]), torch.tensor([True, False])
    real_N = torch.ones(2, dtype=torch.bool)
    for start, scores, sign in ((0.0, scores_N, -1), (5.0, scores_N, 1), (-1.0, scores_N, -1)):
        module = Aucm(margin=1.0).build(LossFacts()).train()
        torch.nn.init.constant_(module.alpha, start)
        value(module(scores, positive_N, real_N)).backward()
        assert torch.sign(module.alpha.grad) == sign
    module = Aucm(margin=1.0).build(LossFacts()).train()
    torch.nn.init.constant_(module.alpha, -1.0)
    value(module(torch.tensor([9.0, -9.0]), positive_N, real_N)).backward()
    assert module.alpha.grad == 0


@pytest.mark.parametrize("name", ["bce", "pair_logistic", "smooth_ap", "soap", "aucm", "immax"])
def test_training_ranks(name: str) -> None:
    """Descending each loss from a bad start ranks the positives of a small problem better, module state included."""
    loss = {"smooth_ap": SmoothAp(tau=0.5), "soap": Soap(rate=0.3)}.get(name, SLOW_SCORES[name][0])
    positive_N, x_ND = coins(0, 400, heads=0.08), randn(1, 400, 5, dtype=torch.float32)
    x_ND[:, 0] += 1.5 * positive_N
    weight_D = torch.tensor([-1.0, 0.5, -0.5, 0.5, -0.5], requires_grad=True)
    module = loss.build(LossFacts(items=400)).train()
    Streams(0).initialise(module)
    optimiser = torch.optim.Adam([weight_D, *module.parameters()], lr=0.05)
    before = average_precision_score(positive_N, (x_ND @ weight_D).detach())
    for step in range(120):
        rows = torch.randperm(400, generator=torch.Generator().manual_seed(step))[:100]
        optimiser.zero_grad()
        value(module(x_ND[rows] @ weight_D, positive_N[rows], torch.ones(100, dtype=torch.bool), rows)).backward()
        optimiser.step()
    after = average_precision_score(positive_N, (x_ND @ weight_D).detach())
    assert before < 0.12
    assert after > 0.35


@few
@given(seed=seeds, count=st.integers(2, 9), temperature=st.floats(0.4, 3))
def test_direction_rank(seed: int, count: int, temperature: float) -> None:
    """It is the mean Jensen-Shannon divergence of pairs, from probabilities, and never above log 2."""

    def slow(e: Tensor, p: Tensor) -> Tensor:
        parts = []
        for i in range(count):
            for j in range(i + 1, count):
                a, b = (torch.sigmoid((x[i] - x[j]) / temperature) for x in (e, p))
                m = (a + b) / 2
                for u in (a, b):
                    parts.append(u * torch.log(u / m) + (1 - u) * torch.log((1 - u) / (1 - m)))
        return torch.stack(parts).sum() / (count * (count - 1))

    loss, real_N = DirectionRank(temperature=temperature), torch.ones(count, dtype=torch.bool)
    agree(lambda e, p: value(loss(e, p, real_N)), slow, randn(seed, count), randn(seed + 1, count))
    opposite = torch.arange(count) * 1e3
    close([value(loss(opposite, -opposite, real_N))], [torch.tensor(math.log(2))], tolerance=1e-6)


@few
@given(seed=seeds, count=st.integers(2, 9), temperature=st.floats(0.05, 1))
def test_info_nce(seed: int, count: int, temperature: float) -> None:
    """It is the cross-entropy of cosines against the own partner, in both directions, whatever the vectors' length."""

    def slow(first: Tensor, second: Tensor) -> Tensor:
        z = F.cosine_similarity(first[:, None], second[None], dim=2) / temperature
        own = torch.arange(count)
        return (F.cross_entropy(z, own) + F.cross_entropy(z.T, own)) / 2

    loss, real_N = InfoNce(temperature=temperature), torch.ones(count, dtype=torch.bool)
    first_ND, second_ND = randn(seed, count, 4), randn(seed + 1, count, 4)
    agree(lambda a, b: value(loss(a, b, real_N)), slow, first_ND, second_ND)
    length_N1 = 10 ** randn(seed + 2, count, 1)
    close([value(loss(first_ND * length_N1, second_ND, real_N))], [value(loss(first_ND, second_ND, real_N))])
    zeros = torch.zeros_like(first_ND)
    close([value(loss(zeros, second_ND, real_N))], [exactly(math.log(count))])


def slow_mmd(x: Tensor, y: Tensor, scales: tuple[float, ...], biased: bool = False) -> Tensor:
    apart = [float((y[i] - y[j]).square().sum()) for i in range(len(y)) for j in range(len(y)) if i != j]
    bandwidth = exactly([d for d in apart if d > 0]).median()

    def within(a: Tensor) -> Tensor:
        every = [kernel(a[i], a[j]) for i in range(len(a)) for j in range(len(a)) if biased or i != j]
        return torch.stack(every).mean()

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return torch.stack([torch.exp(-(a - b).square().sum() / (2 * s * bandwidth)) for s in scales]).mean()

    return within(x) + within(y) - 2 * torch.stack([kernel(a, b) for a in x for b in y]).mean()


@pytest.mark.parametrize("estimator", ["unbiased", "biased"])
@few
@given(seed=seeds, n=st.integers(2, 6), m=st.integers(2, 6))
def test_mmd(estimator: str, seed: int, n: int, m: int) -> None:
    """It is a double loop over rows in each condition, averaged over the conditions that have enough rows."""
    scales = (0.5, 2.0)
    loss = attrs.evolve(Mmd(scales=scales, min_rows=2), estimator=estimator)
    y_MF = 1 + 2 * randn(seed + 1, 2 * m + 1, 3)
    group_N = torch.tensor([3] * n + [1] * (n + 1) + [5])
    group_M = torch.tensor([3] * m + [1] * m + [5])

    def slow(x_NF: Tensor) -> Tensor:
        shares = [slow_mmd(x_NF[group_N == c], y_MF[group_M == c], scales, estimator == "biased") for c in (1, 3)]
        return torch.stack(shares).mean()

    agree(lambda x_NF: value(loss(x_NF, y_MF, group_N, group_M)), slow, randn(seed, 2 * n + 2, 3))


def test_mmd_is_unbiased() -> None:
    """For equal laws it is 0 on average and often below; a shift of .05 in 200 uniform features gives .0072."""
    generator = torch.Generator().manual_seed(0)
    one = torch.zeros(48, dtype=torch.long)
    x_RNF, y_RNF = torch.rand(2, 100, 48, 200, generator=generator)
    equal = torch.stack([value(Mmd()(x, y, one, one)) for x, y in zip(x_RNF, y_RNF, strict=True)])
    assert abs(equal.mean()) < 4 * equal.std() / 10
    assert 0.3 < (equal < 0).float().mean() < 0.7
    biased = torch.stack([value(Mmd(estimator="biased")(x, y, one, one)) for x, y in zip(x_RNF, y_RNF, strict=True)])
    assert (biased > 0).all()
    shifted = [value(Mmd()(x + 0.05, y, one, one)) for x, y in zip(x_RNF, y_RNF, strict=True)]
    assert 0.9 * 0.0072 < torch.stack(shifted).mean() < 1.1 * 0.0072


def test_mmd_rows_drawn_twice() -> None:
    """Targets drawn with replacement do not shrink the kernel: half of them equal leave a width, and a gradient."""
    one = torch.zeros(8, dtype=torch.long)
    y_MF = randn(0, 8, 3)
    y_MF[:6] = y_MF[0]
    x_NF = randn(1, 8, 3).requires_grad_()
    value(Mmd()(x_NF, y_MF, one, one)).backward()
    assert x_NF.grad is not None
    assert x_NF.grad.norm() > 1e-3


def test_mmd_far_from_the_origin() -> None:
    """In float32 a common offset a thousand times the spread changes the value by rounding alone."""
    one = torch.zeros(16, dtype=torch.long)
    x_NF, y_MF = randn(0, 16, 20, dtype=torch.float32), randn(1, 16, 20, dtype=torch.float32) + 1
    plain, far = (value(Mmd()(x_NF + c, y_MF + c, one, one)) for c in (0.0, 1000.0))
    close([far], [plain], tolerance=2e-4)


@few
@given(seed=seeds, count=st.integers(2, 9), gamma=st.floats(0.3, 2), squared=st.booleans())
def test_vicreg(seed: int, count: int, gamma: float, squared: bool) -> None:
    """Variance and covariance terms are those of numpy's unbiased covariance matrix."""
    real_N, z_ND = torch.ones(count, dtype=torch.bool), randn(seed, count, 4)
    covariance = np.cov(z_ND.numpy(), rowvar=False)
    shortfall = np.maximum(0, gamma - np.sqrt(np.diag(covariance) + 1e-4))
    wanted = (shortfall**2 if squared else shortfall).mean()
    close([value(VicregVar(gamma=gamma, squared=squared)(z_ND, real_N))], [exactly(wanted)])
    off = covariance - np.diag(np.diag(covariance))
    close([value(VicregCov()(z_ND, real_N))], [exactly((off**2).sum() / 4)])


@few
@given(seed=seeds, low=st.floats(0.1, 0.9))
def test_vicreg_zero(seed: int, low: float) -> None:
    """Uncorrelated features of enough spread cost nothing; one of less spread, or a mixture of two, costs."""
    real_N = torch.ones(8, dtype=torch.bool)
    centred_ND = randn(seed, 8, 3) - randn(seed, 8, 3).mean(0)
    free_ND = torch.linalg.qr(centred_ND).Q * math.sqrt(7)
    assert value(VicregVar(gamma=1.0)(free_ND, real_N)) == 0
    assert value(VicregCov()(free_ND, real_N)) < 1e-20
    assert value(VicregVar(gamma=1.0)(free_ND * torch.tensor([1.0, low, 1.0]), real_N)) > 1e-3
    assert value(VicregCov()(free_ND + free_ND.roll(1, 1), real_N)) > 1e-3


@few
@given(seed=seeds)
def test_ortho(seed: int) -> None:
    """0 if and only if W_com W_spec^T is 0, 1 for one direction, and no row's scale counts."""
    basis_DD = torch.linalg.qr(randn(seed, 6, 6)).Q
    com_CD, spec_SD = randn(seed + 1, 4, 4) @ basis_DD[:4], randn(seed + 2, 2, 2) @ basis_DD[4:]
    assert value(Ortho()([com_CD, spec_SD])) < 1e-24
    mixed_SD = spec_SD + 0.1 * com_CD[:2]
    plain = value(Ortho()([com_CD, mixed_SD]))
    cosines = F.cosine_similarity(com_CD[:, None], mixed_SD[None], dim=2)
    close([plain], [cosines.square().mean()])
    assert plain > 1e-4
    scales_C1, scales_S1 = 10 ** (3 * randn(seed + 3, 4, 1)), 10 ** (3 * randn(seed + 4, 2, 1))
    close([value(Ortho()([com_CD * scales_C1, mixed_SD * scales_S1]))], [plain])
    close([value(Ortho()([com_CD[:1], -7 * com_CD[:1]]))], [torch.ones(()).double()])


@few
@given(seed=seeds, bound=st.floats(0.2, 4))
def test_spectral(seed: int, bound: float) -> None:
    """The exact penalty is that of numpy's singular values, and power iteration comes to it from below."""
    weights = [randn(seed, 6, 3), randn(seed + 1, 4, 8)]
    loss = Spectral(bound=bound)
    spectra = [np.linalg.svd(w.numpy(), compute_uv=False) for w in weights]
    wanted = exactly(sum(max(0.0, s[0] - bound) ** 2 for s in spectra))
    close([value(loss(weights))], [wanted])
    slowest = max(s[1] / s[0] for s in spectra)
    assume(slowest < 0.995)
    module = loss.build(LossFacts(matrices=((6, 3), (4, 8)))).double().train()
    # What is left of a start shrinks by the square of this ratio in each iteration.
    told = [value(module(weights)) for _ in range(max(200, math.ceil(math.log(1e-10, slowest**2))))]
    assert all(later >= earlier - 1e-9 for earlier, later in itertools.pairwise(told))
    close([told[-1]], [wanted], tolerance=1e-6)
    agree(lambda *w: value(module(w)), lambda *w: value(loss(w)), *weights, tolerance=1e-3)


@few
@given(seed=seeds, bound=st.floats(0.2, 4))
def test_spectral_projection(seed: int, bound: float) -> None:
    """Projection scales a matrix onto the bound where it exceeds it, and leaves it bit by bit where it does not."""
    weights = [randn(seed, 6, 3), randn(seed + 1, 4, 8)]
    moved = [w.clone() for w in weights]
    Spectral(bound=bound).project(moved)
    for w, m in zip(weights, moved, strict=True):
        sigma = torch.linalg.matrix_norm(w, 2)
        if sigma <= bound:
            assert torch.equal(m, w)
        else:
            close([m], [w * bound / sigma])


def test_spectral_refuses() -> None:
    """It says what it lacks: shapes to build for, and the weights that it was built for."""
    with pytest.raises(ValueError, match="one matrix"):
        Spectral().build(LossFacts())
    module = Spectral().build(LossFacts(matrices=((2, 3),)))
    with pytest.raises(ValueError, match=r"\[\(3, 2\)\]; this spectral penalty was built for \[\(2, 3\)\]"):
        module([torch.ones(3, 2)])
    with pytest.raises(ValueError, match="same number of columns"):
        Ortho()([torch.ones(2, 3), torch.ones(2, 4)])


def test_choices_refused() -> None:
    """Parameters that contradict each other are refused with the reason."""
    with pytest.raises(ValueError, match="give both, or neither"):
        Bce(prior=0.1)
    with pytest.raises(ValueError, match="one or the other"):
        Bce(prior=0.1, drawn=0.5, pos_weight=2.0)
    with pytest.raises(ValueError, match="scales is empty"):
        Mmd(scales=())


def test_a_slot_of_values() -> None:
    """A system that compares values refuses a loss that reads something else, and says which."""
    taken = {f.name: None if f.default is attrs.NOTHING else f.default for f in attrs.fields(Spatial)}
    taken |= {"metrics": (1,), "position_loss": (Mse(),)}
    with pytest.raises(ValueError, match="Bce reads scores; take a loss of values"):
        Spatial(**taken | {"expression_loss": (Mse(), Bce())})


def test_labels_are_bool() -> None:
    """Labels as numbers are refused: a share of a positive means nothing here."""
    with pytest.raises(ValueError, match=r"labels > 0\.5"):
        Bce()(randn(0, 3), torch.tensor([1.0, 0.0, 1.0]), torch.ones(3, dtype=torch.bool))
    with pytest.raises(ValueError, match="one bool an item"):
        Bce()(randn(0, 3), torch.tensor([True, False, True]), torch.ones(3))
    with pytest.raises(ValueError, match="int64"):
        Mmd()(randn(0, 3, 2), randn(1, 3, 2), torch.ones(3), torch.ones(3))


def test_a_ruined_model_is_seen() -> None:
    """A score that is no number makes the loss no number: it is not taken for padding."""
    scores_N, positive_N = torch.tensor([float("nan"), 1.0]), torch.tensor([True, False])
    for loss in (Bce(), PairLogistic(), SmoothAp(), Soap(), Aucm(), Immax()):
        assert value(loss(scores_N, positive_N, torch.ones(2, dtype=torch.bool))).isnan()
