"""What every head must do. B items, D width, P predicted numbers.

@pytest.mark.parametrize("head", [Linear(), st.builds(Mlp, hidden=st.floats(0.5, 2))], ids=repr)
class TestHeads(HeadLaws): ...
"""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from core.kinds.head import Head
from core.testing.draws import Drawable, close, drawn, gradients, law, randn, same_after_loading, seeds, started
from core.train.streams import Streams

sizes = st.integers(1, 5)
shapes = st.tuples(sizes, sizes, sizes)
WIDE = 16
"""channels enough that some stay open"""


class HeadLaws:
    """Laws of `core.kinds.head.Head`; parametrise a subclass over `head`, a plugin or a strategy of plugins."""

    @law
    @given(data=st.data(), shape=shapes, empty=st.booleans(), seed=seeds)
    def test_shape_and_dtype(
        self, head: Drawable[Head], data: st.DataObject, shape: tuple, empty: bool, seed: int
    ) -> None:
        """One prediction a row, of the dtype of the row, under autocast too; no row gives no prediction."""
        items, width, outputs = shape
        layer = drawn(data, head).build(width, outputs)
        items = 0 if empty else items
        for dtype in (torch.float64, torch.float32, torch.bfloat16):
            for half in (False, dtype == torch.float32):
                with torch.autocast("cpu", torch.bfloat16, enabled=half):
                    out_BP = started(layer, seed, dtype)(randn(seed, items, width, dtype=dtype))
                assert out_BP.shape == (items, outputs)
                assert out_BP.dtype == dtype

    @law
    @given(data=st.data(), shape=shapes, seed=seeds)
    def test_own_row(self, head: Drawable[Head], data: st.DataObject, shape: tuple, seed: int) -> None:
        """In evaluation a row's prediction, and the gradient of it, are those of that row alone."""
        items, width, outputs = shape
        module = started(drawn(data, head).build(width, outputs), seed)
        x_BD = randn(seed, items, width).requires_grad_()
        b = data.draw(st.integers(0, items - 1))
        row_D = x_BD[b].detach().clone().requires_grad_()
        whole_BP, alone_P = module(x_BD), module(row_D[None])[0]
        (slope_BD,), (slope_D,) = gradients(whole_BP[b], [x_BD]), gradients(alone_P, [row_D])
        expected_BD = torch.zeros_like(slope_BD)
        expected_BD[b] = slope_D
        close([whole_BP[b], slope_BD], [alone_P, expected_BD])

    @law
    @given(data=st.data(), shape=shapes, seed=seeds)
    def test_gradients(self, head: Drawable[Head], data: st.DataObject, shape: tuple, seed: int) -> None:
        """Over many rows and first values the gradient reaches every parameter; it agrees with finite differences.

        One set of first values may have a layer whose rectified channels are all shut.
        """
        _, width, outputs = shape
        plugin = drawn(data, head)
        many_BD, wide = randn(seed, 64, WIDE).requires_grad_(), plugin.build(WIDE, outputs)
        reached = torch.zeros(1 + len([*wide.parameters()]), dtype=torch.bool)
        for first in range(seed, seed + 8):
            module = started(wide, first)
            slopes = gradients(module(many_BD), [many_BD, *module.parameters()])
            reached |= torch.stack([(slope != 0).any() for slope in slopes])
        missed = [
            name for name, hit in zip(["its input", *dict(wide.named_parameters())], reached, strict=True) if not hit
        ]
        assert not missed, f"no gradient reaches {', '.join(missed)}"
        few_BD = randn(seed, 2, width).requires_grad_()
        assert torch.autograd.gradcheck(started(plugin.build(width, outputs), seed), [few_BD])

    @law
    @given(data=st.data(), shape=shapes, seed=seeds)
    def test_large_inputs(self, head: Drawable[Head], data: st.DataObject, shape: tuple, seed: int) -> None:
        """Inputs of 1e6 give finite predictions and gradients, in half precision too."""
        items, width, outputs = shape
        for dtype in (torch.float32, torch.bfloat16):
            module = started(drawn(data, head).build(width, outputs), seed, dtype)
            x_BD = (1e6 * randn(seed, items, width)).to(dtype).requires_grad_()
            out_BP = module(x_BD)
            assert all(torch.isfinite(t).all() for t in (out_BP, *gradients(out_BP, [x_BD, *module.parameters()])))

    @law
    @given(data=st.data(), shape=shapes, seed=seeds)
    def test_randomness(self, head: Drawable[Head], data: st.DataObject, shape: tuple, seed: int) -> None:
        """In training a step's numbers come from the module's own streams, and the global state stays untouched."""
        items, width, outputs = shape
        module = started(drawn(data, head).build(width, outputs), seed).train()
        before = torch.get_rng_state()
        first, again = (_at_step(module, randn(seed, items, width), seed) for _ in range(2))
        assert torch.equal(torch.get_rng_state(), before)
        assert torch.equal(first, again)

    @law
    @given(data=st.data(), shape=shapes, seed=seeds)
    def test_state(self, head: Drawable[Head], data: st.DataObject, shape: tuple, seed: int) -> None:
        """A head that loads the state of another is that head."""
        items, width, outputs = shape
        plugin = drawn(data, head)
        module, fresh = (started(plugin.build(width, outputs), seed + i) for i in range(2))
        same_after_loading(module, fresh, lambda one: [one(randn(seed, items, width))])

    @law
    @given(data=st.data(), shape=shapes)
    def test_meta(self, head: Drawable[Head], data: st.DataObject, shape: tuple) -> None:
        """A head builds and runs without memory."""
        items, width, outputs = shape
        with torch.device("meta"):
            out_BP = drawn(data, head).build(width, outputs)(torch.empty(items, width))
        assert out_BP.is_meta
        assert out_BP.shape == (items, outputs)


def _at_step(module: nn.Module, x_BD: Tensor, seed: int) -> Tensor:
    Streams(seed).reseed(module, step=3)
    return module(x_BD)
