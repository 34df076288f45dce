"""Positions."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from core.kinds import Places
from core.testing.draws import built, close, law, randn, seeds
from core.testing.position import PositionLaws
from plugins.positions.direction_distance import DirectionDistance
from plugins.positions.fourier import Fourier
from plugins.positions.none import NoPosition
from plugins.positions.rope import Rope
from plugins.positions.sinusoidal import Sinusoidal

origins = st.sampled_from(["token", "centre", "genomic"])
bases = st.floats(2.0, 1e5)
ropes = st.one_of(
    built(Rope, base=bases, origin=origins, scaling=st.sampled_from(["none", "dynamic"]), trained=st.integers(1, 6)),
    st.builds(Rope, base=bases, origin=origins, scaling=st.sampled_from(["linear", "ntk"]), factor=st.floats(1, 9)),
)


@pytest.mark.parametrize(
    "position",
    [
        NoPosition(),
        ropes,
        built(Sinusoidal, base=bases, origin=origins, unit=st.floats(0.5, 9)),
        st.builds(Fourier, features=st.integers(1, 5)),
        st.builds(DirectionDistance, hidden=st.integers(1, 5)),
    ],
    ids=["none", "rope", "sinusoidal", "fourier", "direction_distance"],
)
class TestPositions(PositionLaws):
    """The laws of positions for every built-in one."""


def turned(plugin: Rope, x: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
    """Vectors (N, K) turned as they would be at places (N,)."""
    places = Places(count=len(x), place_BNP=at[None, :, None], longest=len(x))
    return plugin.build(x.shape[-1], 1, x.shape[-1]).heads(x[None, None], places)[0, 0]


@law
@given(seed=seeds, base=bases, shift=st.floats(-1e4, 1e4))
def test_rope_sees_distances_alone(seed: int, base: float, shift: float) -> None:
    """<R_m q, R_n k> depends on m - n only, and lengths stay."""
    plugin = Rope(base=base, origin="genomic", unit=1.0)
    q, k, m, n = randn(seed, 5, 6), randn(seed + 1, 5, 6), 50 * randn(seed + 2, 5), 50 * randn(seed + 3, 5)
    here = (turned(plugin, q, m) * turned(plugin, k, n)).sum(-1)
    there = (turned(plugin, q, m + shift) * turned(plugin, k, n + shift)).sum(-1)
    close([there], [here], 1e-7)
    close([turned(plugin, q, m).norm(dim=-1)], [q.norm(dim=-1)])


@law
@given(seed=seeds, base=bases, factor=st.floats(1, 9))
def test_linear_scaling_shrinks_places(seed: int, base: float, factor: float) -> None:
    """Scaled by s, the place s m is what m is without scaling."""
    x, m = randn(seed, 5, 6), 20 * randn(seed + 1, 5)
    plain = Rope(base=base, origin="genomic", unit=1.0)
    close([turned(Rope(base=base, origin="genomic", unit=1.0, scaling="linear", factor=factor), x, factor * m)],
          [turned(plain, x, m)], 1e-8)  # fmt: skip


@law
@given(seed=seeds, base=bases, factor=st.floats(1, 9))
def test_ntk_scaling_keeps_the_fastest_channel_and_slows_the_slowest(seed: int, base: float, factor: float) -> None:
    """The first pair turns as before, the last exactly s times slower (base s^(K / (K - 2)))."""
    x, m = randn(seed, 5, 6), 20 * randn(seed + 1, 5)
    plain = Rope(base=base, origin="genomic", unit=1.0)
    scaled = Rope(base=base, origin="genomic", unit=1.0, scaling="ntk", factor=factor)
    close([turned(scaled, x, m)[:, :2]], [turned(plain, x, m)[:, :2]], 1e-8)
    close([turned(scaled, x, factor * m)[:, 4:]], [turned(plain, x, m)[:, 4:]], 1e-8)


@pytest.mark.parametrize("length", [3, 8, 20])
def test_dynamic_scaling_is_ntk_by_the_true_length(length: int) -> None:
    """s = max(1, L / trained), from the real tokens of the longer side, whatever the padding."""
    x = randn(1, 1, 1, 24, 6)
    layer = Rope(scaling="dynamic", trained=8).build(6, 1, 6)
    found = layer.heads(x, Places(count=24, longest_B=torch.tensor([length]), longest=24))
    fixed = Rope(scaling="ntk", factor=max(1.0, length / 8)).build(6, 1, 6)
    close([found], [fixed.heads(x, Places(count=24, longest=24))], 1e-12)


def test_the_centre_is_the_middle_of_the_real_tokens() -> None:
    """With 3 real tokens of 5 the middle one stands at 0 and is not turned."""
    x = randn(1, 1, 1, 5, 4)
    real_BN = torch.tensor([[True, True, True, False, False]])
    layer = Rope(origin="centre").build(4, 1, 4)
    found = layer.heads(x, Places(count=5, real_BN=real_BN, longest_B=torch.tensor([3]), longest=5))
    close([found[:, :, 1]], [x[:, :, 1]])
    assert not torch.allclose(found[:, :, 0], x[:, :, 0])


def test_positions_that_cannot_be_built_say_why() -> None:
    """Widths that do not pair up, a factor that nothing uses, missing or other coordinates: what to do is said."""
    with pytest.raises(ValueError, match="pairs of channels, and heads are 5 wide"):
        Rope().build(10, 2, 5)
    with pytest.raises(ValueError, match="at least 4 channels"):
        Rope(scaling="dynamic").build(4, 2, 2)
    with pytest.raises(
        ValueError, match="factor = 2 does nothing, as scaling is none; leave it out, or choose scaling = linear or ntk"
    ):
        Rope(factor=2.0)
    x_BND = torch.zeros(1, 3, 4)
    with pytest.raises(ValueError, match="origin = genomic needs coordinates"):
        Sinusoidal(origin="genomic").build(4, 1, 4).tokens(x_BND, Places(count=3))
    with pytest.raises(ValueError, match=r"set position\.axes = 3"):
        Fourier().build(4, 1, 4).tokens(x_BND, Places(count=3, place_BNP=torch.zeros(1, 3, 3)))
    with pytest.raises(ValueError, match="direction_distance needs coordinates"):
        DirectionDistance().build(4, 1, 4).tokens(x_BND, Places(count=3))


def test_a_cell_at_the_centre_has_a_gradient() -> None:
    """Distance 0 gives finite values and a finite slope."""
    layer = DirectionDistance().build(4, 1, 4)
    torch.nn.init.ones_(layer.second)
    place = torch.zeros(1, 2, 2, requires_grad=True)
    out = layer.tokens(torch.zeros(1, 2, 4), Places(count=2, place_BNP=place))
    (slope,) = torch.autograd.grad(out.sum(), place)
    assert torch.isfinite(slope).all()
