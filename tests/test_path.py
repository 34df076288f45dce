"""Flow paths: the laws of the kind, and the closed form of the cosine schedule."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from core.testing.path import PathLaws, Straight
from plugins.paths.cond_ot import CondOt
from plugins.paths.cosine import Cosine

ALL_PATHS = [
    CondOt(),
    Cosine(),
    Cosine(exponent=2.0),
    Cosine(exponent=0.5),
    Cosine(exponent=1.5, offset=0.1),
    Cosine(exponent=3.0, offset=1e-3),
    Straight(),
]
COSINES = st.builds(Cosine, exponent=st.floats(0.2, 6.0), offset=st.floats(1e-6, 1.0))


@pytest.mark.parametrize("path", ALL_PATHS, ids=str)
class TestPath(PathLaws):
    pass


@pytest.mark.parametrize("path", [CondOt(), Cosine(), Cosine(exponent=2.0)], ids=str)
def test_meta(path):
    """A path runs on the meta device, where shapes are counted without memory."""
    with torch.device("meta"):
        point = path.point(torch.empty(4, 7, 2), torch.empty(4, 7, 2), torch.empty(4))
    assert point.velocity.shape == (4, 7, 2)


def test_cond_ot_velocity():
    """On the straight path the velocity is x1 - x0 at every time."""
    x0, x1 = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0))
    for t in (0.0, 0.3, 1.0):
        assert torch.equal(CondOt().point(x0, x1, torch.full((5,), t)).velocity, x1 - x0)


@settings(deadline=None, max_examples=60)
@given(path=COSINES, t=st.floats(0.0, 1.0), single=st.booleans())
def test_cosine_preserves_variance(path, t, single):
    """alpha^2 + sigma^2 = 1, whatever the knobs, the time and the dtype."""
    dtype = torch.float32 if single else torch.float64
    t_B = torch.tensor([t], dtype=dtype)
    total = path.alpha(t_B).square() + path.sigma(t_B).square()
    assert abs(total.item() - 1) <= 8 * torch.finfo(dtype).eps


@settings(deadline=None, max_examples=60)
@given(path=COSINES, t=st.floats(0.0, 1.0), single=st.booleans())
def test_cosine_is_finite(path, t, single):
    """Shares lie in [0, 1] and rates are finite with the right sign, whatever the knobs, the time and the dtype."""
    t_B = torch.tensor([t], dtype=torch.float32 if single else torch.float64)
    d_alpha, d_sigma = path.rates(t_B)
    assert 0 <= path.alpha(t_B) <= 1
    assert 0 <= path.sigma(t_B) <= 1
    assert 0 <= d_alpha < math.inf
    assert -math.inf < d_sigma <= 0


@settings(deadline=None, max_examples=40)
@given(path=COSINES)
def test_cosine_closed_form(path):
    """Away from the ends the stable form equals the textbook formula in values and slopes (float64)."""
    t_B = torch.linspace(0.05, 0.95, 19, dtype=torch.float64, requires_grad=True)
    alpha, sigma = textbook(t_B, path.exponent, path.offset)
    d_alpha, d_sigma = (torch.autograd.grad(y.sum(), t_B, retain_graph=True)[0] for y in (alpha, sigma))
    t_B = t_B.detach()
    torch.testing.assert_close(path.alpha(t_B), alpha.detach(), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(path.sigma(t_B), sigma.detach(), rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(path.rates(t_B)[0], d_alpha, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(path.rates(t_B)[1], d_sigma, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("exponent", [0.5, 1.0, 2.0, 3.0])
def test_cosine_keeps_its_digits(exponent):
    """In float32 every value and rate is within a few roundings of float64, also one rounding away from the ends."""
    path = Cosine(exponent=exponent)
    eps = 2.0**-24
    t_B = torch.tensor([eps, 1e-5, 1e-2, 0.5, 0.99, 1 - 1e-5, 1 - 2 * eps, 1 - eps])
    for single, double in zip(
        (path.alpha(t_B), path.sigma(t_B), *path.rates(t_B)),
        (path.alpha(t_B.double()), path.sigma(t_B.double()), *path.rates(t_B.double())),
        strict=True,
    ):
        torch.testing.assert_close(single.double(), double, rtol=2e-6, atol=1e-30)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_cosine_noise_near_the_data(dtype):
    """Near t = 1 sigma^2 is 4 k cot(k) (1 - t), k = pi/2 / (1 + offset), where 1 - alpha^2 has no digits left."""
    k = 0.5 * math.pi / 1.008
    tau = torch.tensor([2.0**-20, 2.0**-23], dtype=dtype)
    torch.testing.assert_close(Cosine().sigma(1 - tau), (4 * k / math.tan(k) * tau).sqrt(), rtol=2e-4, atol=0)


def test_cosine_slope_at_the_data():
    """At t = 1 the slope of sigma is exact for exponent 2, 0 above, and below 2 that of the last number before 1."""
    end = torch.ones(1, dtype=torch.float64)
    k = 0.5 * math.pi / 1.008
    assert Cosine(exponent=2.0).rates(end)[1].item() == pytest.approx(-math.sqrt(4 * k / math.tan(k)), rel=1e-12)
    assert Cosine(exponent=3.0).rates(end)[1].item() == 0
    before = end - torch.finfo(torch.float64).eps / 2
    assert Cosine().rates(end)[1].item() == pytest.approx(Cosine().rates(before)[1].item(), rel=1e-9)


def test_cosine_matches_a_table_of_steps():
    """The product of a thousand discrete steps, as samplers with tables have it, is the closed form."""
    steps = 1000
    f = [math.cos(math.pi / 2 * (i / (steps + 1) + 0.008) / 1.008) ** 2 for i in range(steps + 2)]
    table, product = [], 1.0
    for before, after in itertools.pairwise(f[:-1]):
        product *= after / before
        table.append(product)
    t_B = 1 - torch.arange(1, steps + 1, dtype=torch.float64) / (steps + 1)
    torch.testing.assert_close(Cosine().alpha(t_B), torch.tensor(table, dtype=torch.float64), rtol=1e-10, atol=1e-12)
    assert table[-1] < 1e-3


@settings(deadline=None, max_examples=30)
@given(low=st.floats(0.3, 3.0), more=st.floats(0.1, 3.0), t=st.floats(0.05, 0.95))
def test_cosine_exponent_delays_noise(low, more, t):
    """At every inner time a larger exponent leaves more of the data."""
    t_B = torch.tensor([t], dtype=torch.float64)
    assert Cosine(exponent=low + more).alpha(t_B) > Cosine(exponent=low).alpha(t_B)


@pytest.mark.parametrize("wrong", [{"exponent": 0.0}, {"exponent": -1.0}, {"offset": 0.0}, {"offset": 2.0}], ids=str)
def test_cosine_knobs_are_bounded(wrong):
    """Knobs outside their range are refused by name."""
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Cosine(**wrong)


def textbook(t_B: Tensor, exponent: float, offset: float) -> tuple[Tensor, Tensor]:
    def f(tau_B: Tensor) -> Tensor:
        return torch.cos(math.pi / 2 * (tau_B**exponent + offset) / (1 + offset)) ** 2

    alpha = f(1 - t_B) / f(torch.zeros_like(t_B))
    return alpha, (1 - alpha**2).sqrt()
