"""Solvers: the laws of the kind, the order of Euler, and the moments of the ancestral sampler."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from core.params import params
from core.testing.path import Straight
from core.testing.solver import SolverLaws, gaussian, observed_order, oracle
from plugins.paths.cond_ot import CondOt
from plugins.paths.cosine import Cosine
from plugins.solvers.adaptive import SHORT, Adaptive
from plugins.solvers.ddim import Ddim
from plugins.solvers.ddpm import Ddpm
from plugins.solvers.euler import Euler
from plugins.solvers.heun import Heun
from plugins.solvers.rk4 import Rk4

ALL_SOLVERS = [
    Euler(),
    Heun(),
    Rk4(),
    Ddpm(),
    Ddim(),
    Ddim(eta=0.5),
    Ddim(eta=1.0),
    Adaptive(),
    Adaptive(method="bosh3"),
]
ALL_PATHS = [CondOt(), Cosine(), Cosine(exponent=2.0), Cosine(exponent=0.5, offset=0.1)]


@pytest.mark.parametrize("solver", ALL_SOLVERS, ids=str)
class TestSolver(SolverLaws):
    pass


def tree(seed, **shapes):
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(*shape, generator=generator) for name, shape in shapes.items()}


def test_orders():
    """Euler's method is of first order, Heun's of second, Runge and Kutta's of fourth."""
    assert observed_order(Euler()) == pytest.approx(1.0, abs=0.02)
    assert observed_order(Heun()) == pytest.approx(2.0, abs=0.1)
    assert observed_order(Rk4()) == pytest.approx(4.0, abs=0.1)


def test_euler_by_hand():
    """Two steps of x' = x t from 1 at uneven times are those worked out by hand."""
    end = Euler().solve(lambda x, t: {"a": x["a"] * t}, {"a": torch.ones(1)}, [0.5, 0.75, 1.0], paths={})
    assert end["a"].item() == pytest.approx((1 + 0.25 * 0.5) * (1 + 0.25 * 0.75))


@pytest.mark.parametrize("solver", [one for one in ALL_SOLVERS if not isinstance(one, (Heun, Rk4, Adaptive))], ids=str)
def test_asked_at_the_start_of_each_step(solver):
    """The field is asked at each start and never at t = 1, where it may be singular."""
    seen, times = [], [0.0, 0.2, 0.7, 1.0]

    def field(state, t):
        seen.append(t)
        return {"a": torch.zeros(2)}

    solver.solve(field, {"a": torch.ones(2)}, times, paths={"a": CondOt()}, noise=gaussian())
    assert seen == times[:-1]


def test_fourth_order_never_asks_at_the_end():
    """Stages lie at both ends and the middle of a step; of the last, at its start, half and three quarters."""
    seen = []

    def field(state, t):
        seen.append(t)
        return {"a": torch.zeros(2)}

    Rk4().solve(field, {"a": torch.ones(2)}, [0.0, 0.5, 1.0], paths={"a": CondOt()})
    assert seen == [0.0, 0.25, 0.25, 0.5, 0.5, 0.75, 0.875]


def test_euler_on_a_curved_path():
    """Along a cosine path the error of a known velocity falls in proportion to the step."""
    paths, data, start = {"a": Cosine(exponent=2.0)}, tree(1, a=(4, 3)), tree(2, a=(4, 3))
    field = lambda state, t: {"a": paths["a"].point(start["a"], data["a"], torch.full((4,), t)).velocity}  # noqa: E731
    errors = [
        (Euler().solve(field, start, [i / n for i in range(n + 1)], paths=paths)["a"] - data["a"]).abs().max().item()
        for n in (50, 100)
    ]
    assert errors[0] / errors[1] == pytest.approx(2.0, abs=0.3)


def test_heun_by_hand():
    """A Heun step and a last Euler step of x' = x t are those worked out by hand; the last step is asked once."""
    seen = []

    def field(x, t):
        seen.append(t)
        return {"a": x["a"] * t}

    end = Heun().solve(field, {"a": torch.ones(1)}, [0.5, 0.75, 1.0], paths={})
    ahead = 1 + 0.25 * 0.5
    middle = 1 + 0.125 * (0.5 + ahead * 0.75)
    assert end["a"].item() == pytest.approx(middle * (1 + 0.25 * 0.75))
    assert seen == [0.5, 0.75, 0.75]


@pytest.mark.parametrize("solver", ALL_SOLVERS, ids=str)
@pytest.mark.parametrize("path", ALL_PATHS, ids=str)
@pytest.mark.parametrize("steps", [2, 9])
def test_no_noise_is_left(solver, path, steps):
    """A field that knows the data ends in them along every path, curved ones too, however few the steps."""
    data, start, paths = tree(1, a=(2, 5)), tree(2, a=(2, 5)), {"a": path}
    times = [i / steps for i in range(steps + 1)]
    end = solver.solve(oracle(solver, data, paths), start, times, paths=paths, noise=gaussian())
    torch.testing.assert_close(end["a"], data["a"], rtol=1e-4, atol=1e-4)


def shrunk(solver, start=None, rate=-1.0):
    """y(1) of y' = rate y, and the times at which the field was asked."""
    seen = []

    def field(y, t):
        seen.append(t)
        return {"a": rate * y["a"]}

    start = torch.ones(1, 1, dtype=torch.float64) if start is None else start
    return solver.solve(field, {"a": start}, [0.0, 1.0], paths={})["a"], seen


@pytest.mark.parametrize("method", ["dopri5", "bosh3", "adaptive_heun"])
def test_tolerances(method):
    """The error is of the size of the tolerances, which cost calls; the last step's own is half its square."""
    calls = []
    for tolerance in (1e-3, 1e-5):
        end, seen = shrunk(Adaptive(method=method, atol=tolerance, rtol=tolerance))
        assert abs(end.item() - math.exp(-1)) < 3 * tolerance + SHORT**2
        assert 0 <= min(seen) <= max(seen) <= 1 - SHORT
        calls.append(len(seen))
    assert calls[0] < calls[1] < 1000


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 99), method=st.sampled_from(["dopri5", "bosh3"]), others=st.integers(1, 50))
def test_a_hard_set_among_easy_ones(seed, method, others):
    """A set is solved no less well for being in a batch of others that need no care: the worst decides the steps."""
    solver = Adaptive(method=method, atol=1e-4, rtol=1e-4)
    rate = torch.full((others + 1, 1), -1e-3, dtype=torch.float64)
    rate[0] = -6.0
    start = torch.rand(others + 1, 1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 0.5
    end, _ = shrunk(solver, start, rate)
    torch.testing.assert_close(end, start * rate.exp(), rtol=0, atol=1e-3)
    # The same steps as for the set by itself, but for the guess at the first of them.
    alone, _ = shrunk(solver, start[:1], rate[:1])
    torch.testing.assert_close(end[:1], alone, rtol=0, atol=1e-3)


@pytest.mark.parametrize(("rate", "most", "said"), [(math.nan, 1000, "not finite"), (-500.0, 100, r"solver\.most")])
def test_an_adaptive_solver_gives_up(rate, most, said):
    """A field that is not finite, or that takes too many steps, is one sentence, not NaN."""
    with pytest.raises(ValueError, match=said):
        shrunk(Adaptive(most=most), rate=rate)


@pytest.mark.parametrize("solver", [Euler(), Heun(), Rk4()], ids=str)
def test_a_velocity_at_rest_says_nothing(solver):
    """One step from pure noise is refused on a path that stands still there, before the field is called."""
    with pytest.raises(ValueError, match="stands still"):
        solver.solve(None, tree(1, a=(2, 5)), [0.0, 1.0], paths={"a": Cosine()})


@settings(deadline=None, max_examples=40)
@given(
    path=st.one_of(st.just(CondOt()), st.builds(Cosine, exponent=st.floats(0.5, 3.0))),
    t=st.floats(0.0, 0.95),
    share=st.floats(0.01, 1.0),
    eta=st.floats(0.0, 1.0),
)
def test_ddim_keeps_the_marginals(path, t, share, eta):
    """c1 alpha + c2 = alpha' and c1^2 sigma^2 + std^2 = sigma'^2 whatever eta; eta = 1 is ddpm, eta = 0 draws none."""
    later = min(1.0, t + share * (1.0 - t))
    both = torch.tensor([t, later], dtype=torch.float64)
    (alpha, alpha_later), (sigma, sigma_later) = path.alpha(both).tolist(), path.sigma(both).tolist()
    c1, c2, std = coefficients(path, t, later, Ddim(eta=eta))
    assert c1 * alpha + c2 == pytest.approx(alpha_later, abs=1e-12)
    assert c1**2 * sigma**2 + std**2 == pytest.approx(sigma_later**2, abs=1e-12)
    assert coefficients(path, t, later, Ddim(eta=1.0)) == pytest.approx(coefficients(path, t, later), abs=1e-7)
    assert coefficients(path, t, later, Ddim(eta=0.0))[2] == 0


@pytest.mark.parametrize("steps", [1, 2, 50])
def test_ddpm_leaves_no_noise(steps):
    """With the data known, a sample equals them bit for bit, each modality along its own path, from any start."""
    paths = {"a": Cosine(), "b": Cosine(exponent=2.0), "c": CondOt()}
    data, start = tree(1, a=(2, 5), b=(2, 3, 2), c=(2, 1)), tree(2, a=(2, 5), b=(2, 3, 2), c=(2, 1))
    for first in (0.0, 0.3):
        times = [first + (1 - first) * i / steps for i in range(steps)] + [1.0]
        end = Ddpm().solve(lambda state, t: data, start, times, paths=paths, noise=gaussian())
        assert all(torch.equal(end[name], data[name]) for name in data)


def test_ddpm_draws_noise_for_all_steps_but_the_last():
    """The step onto the data draws no noise; a schedule that stops before t = 1 draws at each step."""
    for times, draws in (([0.0, 0.5, 1.0], 1), ([0.0, 0.5, 0.9], 2)):
        seen = []
        field = lambda state, t: {"a": torch.zeros(2)}  # noqa: E731
        noise = lambda state, seen=seen: seen.append(1) or gaussian()(state)  # noqa: E731
        Ddpm().solve(field, {"a": torch.ones(2)}, times, paths={"a": CondOt()}, noise=noise)
        assert len(seen) == draws


def coefficients(path, t, later, solver=None):
    """c1, c2 and std of one step, read off from what the step does to units."""
    unit, zero = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    read = []
    for x, data, noise in ((unit, zero, zero), (zero, unit, zero), (zero, zero, unit)):
        step = (solver or Ddpm()).solve(
            lambda s, t, d=data: {"a": d}, {"a": x}, [t, later], paths={"a": path}, noise=lambda s, n=noise: {"a": n}
        )
        read.append(step["a"].item())
    return read


@settings(deadline=None, max_examples=80)
@given(
    path=st.one_of(st.just(CondOt()), st.builds(Cosine, exponent=st.floats(0.3, 4.0), offset=st.floats(1e-4, 0.5))),
    t=st.floats(0.0, 0.99),
    share=st.floats(0.001, 1.0),
)
def test_ddpm_keeps_the_marginals(path, t, share):
    """c1 alpha(t) + c2 = alpha(t') and c1^2 sigma(t)^2 + std^2 = sigma(t')^2, for any path and any t < t'."""
    later = min(1.0, t + share * (1.0 - t))
    both = torch.tensor([t, later], dtype=torch.float64)
    (alpha, alpha_later), (sigma, sigma_later) = path.alpha(both).tolist(), path.sigma(both).tolist()
    c1, c2, std = coefficients(path, t, later)
    assert min(c1, c2, std) >= 0
    assert c1 * alpha + c2 == pytest.approx(alpha_later, abs=1e-12)
    assert c1**2 * sigma**2 + std**2 == pytest.approx(sigma_later**2, abs=1e-12)


@settings(deadline=None, max_examples=40)
@given(t=st.floats(0.01, 0.9), share=st.floats(0.05, 0.95))
def test_ddpm_is_the_posterior(t, share):
    """A step is the Gaussian posterior q(x_t' | x_t, x1) by Bayes' rule from prior and likelihood."""
    path, later = Cosine(), t + share * (1 - t)
    both = torch.tensor([t, later], dtype=torch.float64)
    (alpha, alpha_later), (sigma, sigma_later) = path.alpha(both).tolist(), path.sigma(both).tolist()
    # prior x_t' ~ N(alpha' x1, sigma'^2); likelihood x_t | x_t' ~ N(a x_t', v)
    a = alpha / alpha_later
    v = sigma**2 - a**2 * sigma_later**2
    variance = 1 / (1 / sigma_later**2 + a**2 / v)
    c1, c2, std = coefficients(path, t, later)
    assert c1 == pytest.approx(variance * a / v, rel=1e-8)
    assert c2 == pytest.approx(variance * alpha_later / sigma_later**2, rel=1e-8)
    assert std**2 == pytest.approx(variance, rel=1e-8)


def sampled(path, steps, centre, spread):
    """Mean and spread, exact, of samples of N(centre, spread^2) given the true posterior mean.

    The sampler is affine in start and noise, so item i gets the i-th noise alone as a unit, the last item none.
    """

    def field(state, t):
        t_1 = torch.tensor([t], dtype=torch.float64)
        alpha, sigma = path.alpha(t_1), path.sigma(t_1)
        gain = alpha * spread**2 / (alpha**2 * spread**2 + sigma**2)
        return {"a": centre + gain * (state["a"] - alpha * centre)}

    units = iter(torch.eye(steps + 1, dtype=torch.float64))
    times = [i / steps for i in range(steps + 1)]
    noise = lambda state: {"a": next(units)}  # noqa: E731
    end = Ddpm().solve(field, {"a": next(units)}, times, paths={"a": path}, noise=noise)["a"]
    return end[-1].item(), (end[:-1] - end[-1]).square().sum().sqrt().item()


@pytest.mark.parametrize("path", ALL_PATHS, ids=str)
def test_ddpm_samples_a_gaussian(path):
    """Given the true posterior mean, samples have the data's mean at once and their spread in the limit of steps.

    The posterior of one step is that of one data point, not of the whole distribution, so with few steps samples
    spread too little: the deficit falls as steps are added.
    """
    centre, spread = 1.5, 0.6
    deficits = []
    for steps in (50, 200, 800):
        mean, width = sampled(path, steps, centre, spread)
        assert mean == pytest.approx(centre, rel=1e-9)
        deficits.append(1 - width / spread)
    assert deficits[0] > deficits[1] > deficits[2] > 0
    assert deficits[2] < 0.3 * deficits[0]


def test_ddpm_forgets_pure_noise():
    """The step from t = 0 does not depend on the state, which holds nothing of the data there."""
    steps = [
        Ddpm().solve(lambda s, t: {"a": torch.ones(2, 3)}, start, [0.0, 0.4], paths={"a": Cosine()}, noise=gaussian())
        for start in (tree(1, a=(2, 3)), tree(2, a=(2, 3)))
    ]
    assert torch.equal(steps[0]["a"], steps[1]["a"])


def test_ddpm_keeps_what_noise_and_prediction_keep():
    """If start, predictions and noise are centred, so is every sample: no step moves the centre."""
    centred = lambda x: x - x.mean(dim=1, keepdim=True)  # noqa: E731
    noise = gaussian(3)
    end = Ddpm().solve(
        lambda state, t: {"a": centred(state["a"].tanh())},
        {"a": centred(tree(1, a=(2, 50, 2))["a"])},
        [0.0, 0.3, 0.6, 0.9],
        paths={"a": Cosine()},
        noise=lambda state: {"a": centred(noise(state)["a"])},
    )
    assert end["a"].mean(dim=1).abs().max() < 1e-6


def test_ddpm_needs_every_path():
    """A modality without a path is named."""
    start = tree(1, a=(2,), b=(2,))
    with pytest.raises(ValueError, match="none was given for b"):
        Ddpm().solve(oracle(Ddpm(), start, {}), start, [0.0, 1.0], paths={"a": CondOt()}, noise=gaussian())


@params
class LosesSignal(Straight):
    """A broken path: half as much data at t = 0.4 as at t = 0.2, with the same noise."""

    def alpha(self, t):
        return torch.where(t < 0.3, t, 0.25 * t)

    def sigma(self, t):
        return torch.full_like(t, 0.5)


def test_ddpm_refuses_a_path_that_loses_signal():
    """A path whose signal-to-noise ratio falls has no ancestral step, and is refused before any field call."""
    late = {"a": LosesSignal()}
    with pytest.raises(ValueError, match=r"LosesSignal loses signal between t = 0.2 and t = 0.4"):
        Ddpm().solve(lambda s, t: pytest.fail("called"), tree(1, a=(2,)), [0.2, 0.4], paths=late, noise=gaussian())


@pytest.mark.parametrize(("rate", "error"), [(-1.0, 1e-5), (2.0, 1e-5), (-5.0, 1e-3)])
def test_nineteen_fourth_order_steps(rate, error):
    """On y' = a y over [0, 1] the relative error of 19 steps is below what a trained field's own error hides."""
    start = {"a": torch.ones(1, dtype=torch.float64)}
    times = torch.linspace(0, 1, 20, dtype=torch.float64).tolist()
    end = Rk4().solve(lambda y, t: {"a": rate * y["a"]}, start, times, paths={})
    assert abs(end["a"].item() / math.exp(rate) - 1) < error
