"""What every residual must do. B batch, T tokens, D width.

@pytest.mark.parametrize("residual", [Plain(), st.builds(LayerScale, initial=st.floats(-1, 1))], ids=repr)
class TestResiduals(ResidualLaws): ...
"""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from core.kinds.residual import Residual
from core.testing.draws import (
    Drawable,
    close,
    coins,
    drawn,
    gradients,
    law,
    randn,
    reached,
    same_after_loading,
    seeds,
    started,
)

sizes = st.integers(1, 5)
shapes = st.tuples(sizes, sizes, sizes)


class ResidualLaws:
    """Laws of `core.kinds.residual.Residual`; parametrise a subclass over `residual`, a plugin or a strategy."""

    @law
    @given(data=st.data(), shape=shapes, seed=seeds)
    def test_shape_and_dtype(self, residual: Drawable[Residual], data: st.DataObject, shape: tuple, seed: int) -> None:
        """The shape is that of the stream, the dtype the wider of stream and output, under autocast too."""
        layer = drawn(data, residual).build(shape[-1])
        for stream in (torch.float64, torch.float32, torch.bfloat16):
            for out in (torch.float32, torch.bfloat16):
                module = started(layer, seed, stream)
                for half in (False, stream == torch.float32):
                    with torch.autocast("cpu", torch.bfloat16, enabled=half):
                        joined = module(randn(seed, *shape, dtype=stream), randn(seed + 1, *shape, dtype=out))
                    assert joined.shape == shape
                    assert joined.dtype == torch.promote_types(stream, out)

    @law
    @given(data=st.data(), shape=shapes, seed=seeds)
    def test_nothing_is_added(self, residual: Drawable[Residual], data: st.DataObject, shape: tuple, seed: int) -> None:
        """An output of 0 leaves the stream exactly as it is, and so does a scale of 0; without scale it comes whole."""
        module = _shaken(drawn(data, residual).build(shape[-1]), seed)
        x_BTD, out_BTD = randn(seed, *shape), randn(seed + 1, *shape)
        assert torch.equal(module(x_BTD, torch.zeros_like(x_BTD)), x_BTD)
        scale = list(module.parameters())
        with torch.no_grad():
            for parameter in scale:
                parameter.zero_()
        assert torch.equal(module(x_BTD, out_BTD), x_BTD if scale else x_BTD + out_BTD)

    @law
    @given(data=st.data(), shape=shapes, seed=seeds)
    def test_linear(self, residual: Drawable[Residual], data: st.DataObject, shape: tuple, seed: int) -> None:
        """What is added is linear in the output, does not depend on the stream, and stays with its token."""
        module = _shaken(drawn(data, residual).build(shape[-1]), seed)
        x_BTD, one_BTD, two_BTD = (randn(seed + i, *shape) for i in range(3))

        def added(out_BTD: Tensor, stream_BTD: Tensor = x_BTD) -> Tensor:
            return module(stream_BTD, out_BTD) - stream_BTD

        close([added(one_BTD + 3.0 * two_BTD)], [added(one_BTD) + 3.0 * added(two_BTD)])
        close([added(one_BTD, two_BTD)], [added(one_BTD)])
        b, t = data.draw(st.integers(0, shape[0] - 1)), data.draw(st.integers(0, shape[1] - 1))
        close([module(x_BTD[b, t][None, None], one_BTD[b, t][None, None])[0, 0]], [module(x_BTD, one_BTD)[b, t]])

    @law
    @given(data=st.data(), shape=shapes, seed=seeds)
    def test_padding(self, residual: Drawable[Residual], data: st.DataObject, shape: tuple, seed: int) -> None:
        """Whatever the stream holds on padding, real tokens and their gradients are the same."""
        module = _shaken(drawn(data, residual).build(shape[-1]), seed)
        real_BT = coins(seed + 2, *shape[:2])
        told = []
        for content in (0.0, 1e30, float("nan")):
            x_BTD = randn(seed, *shape).masked_fill(~real_BT[..., None], content)
            out_BTD = randn(seed + 1, *shape).masked_fill(~real_BT[..., None], 0.0)
            joined = module(x_BTD, out_BTD)[real_BT]
            told.append([joined.detach(), *gradients(joined, list(module.parameters()))])
        close(told[1], told[0])
        close(told[2], told[0])

    @law
    @given(data=st.data(), shape=shapes, seed=seeds)
    def test_gradients(self, residual: Drawable[Residual], data: st.DataObject, shape: tuple, seed: int) -> None:
        """The gradient reaches stream, output and every parameter, and agrees with finite differences."""
        module = _shaken(drawn(data, residual).build(shape[-1]), seed)
        inputs = [randn(seed + i, *shape).requires_grad_() for i in range(2)]
        x_slope, out_slope, *slopes = gradients(module(*inputs), [*inputs, *module.parameters()])
        assert (x_slope != 0).any(), "no gradient reaches the stream"
        assert (out_slope != 0).any(), "no gradient reaches the output"
        reached(module, slopes)
        assert torch.autograd.gradcheck(lambda x, out: module(x, out), inputs)

    @law
    @given(data=st.data(), shape=shapes, seed=seeds)
    def test_start(self, residual: Drawable[Residual], data: st.DataObject, shape: tuple, seed: int) -> None:
        """Training starts where `build` starts: `reset_parameters` sets the same scale again, unless it draws one."""
        plugin = drawn(data, residual)
        x_BTD, out_BTD = randn(seed, *shape), randn(seed + 1, *shape)
        built, *again = (plugin.build(shape[-1]).double().eval() for _ in range(3))
        joined = [started(module, seed + i)(x_BTD, out_BTD) for i, module in enumerate(again)]
        if torch.equal(*joined):
            close(joined[:1], [built(x_BTD, out_BTD)], tolerance=1e-7)

    @law
    @given(data=st.data(), shape=shapes, seed=seeds)
    def test_state(self, residual: Drawable[Residual], data: st.DataObject, shape: tuple, seed: int) -> None:
        """A residual that loads the state of another is that residual."""
        plugin = drawn(data, residual)
        module, fresh = _shaken(plugin.build(shape[-1]), seed), started(plugin.build(shape[-1]), seed + 1)
        same_after_loading(module, fresh, lambda one: [one(randn(seed, *shape), randn(seed + 1, *shape))])

    @law
    @given(data=st.data(), shape=shapes)
    def test_meta(self, residual: Drawable[Residual], data: st.DataObject, shape: tuple) -> None:
        """It builds and runs without memory."""
        with torch.device("meta"):
            joined = drawn(data, residual).build(shape[-1])(torch.empty(shape), torch.empty(shape))
        assert joined.is_meta
        assert joined.shape == shape


def _shaken(module: nn.Module, seed: int) -> nn.Module:
    """The module with a scale that is nowhere 0."""
    module = started(module, seed)
    with torch.no_grad():
        for i, parameter in enumerate(module.parameters()):
            parameter.copy_(0.5 + randn(seed + 7 + i, *parameter.shape).abs())
    return module
