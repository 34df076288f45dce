"""What every gate must do. B batch, Q tokens, D width, H heads, V value width of a head.

@pytest.mark.parametrize("gate", [NoGate(), st.builds(Headwise, bias=st.floats(-3, 3))], ids=repr)
class TestGates(GateLaws): ...
"""

from __future__ import annotations

import attrs
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from core.kinds.gate import Gate, GateLayer
from core.testing.draws import Drawable, close, drawn, gradients, law, randn, seeds, started

sizes = st.integers(1, 4)


@attrs.frozen
class Gated:
    """A gate's module, tokens, and what their heads read."""

    module: nn.Module
    x_BQD: Tensor
    out_BHQV: Tensor


@st.composite
def shapes(draw: st.DrawFn) -> tuple[int, int, int, int, int]:
    return draw(sizes), draw(sizes), draw(sizes), draw(sizes), draw(sizes)


class GateLaws:
    """Laws of `core.kinds.gate.Gate`; parametrise a subclass over `gate`, a plugin or a strategy of plugins."""

    @law
    @given(data=st.data(), shape=shapes(), seed=seeds)
    def test_shape_and_dtype(self, gate: Drawable[Gate], data: st.DataObject, shape: tuple, seed: int) -> None:
        """What comes out has the shape and dtype of what was read, also where tokens are wider and under autocast."""
        for dtype in (torch.float32, torch.float64):
            case = _gated(gate, data, shape, seed, dtype)
            for read, autocast in ((dtype, False), (torch.bfloat16, False), (torch.bfloat16, dtype == torch.float32)):
                with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                    out = case.module(case.out_BHQV.to(read), case.x_BQD)
                assert out.shape == case.out_BHQV.shape
                assert out.dtype == read

    @law
    @given(data=st.data(), shape=shapes(), seed=seeds)
    def test_scores(self, gate: Drawable[Gate], data: st.DataObject, shape: tuple, seed: int) -> None:
        """Scores lie in [0, 1], and multiply: scores of 1, or none at all, leave the input as it is."""
        case = _gated(gate, data, shape, seed)
        assert isinstance(case.module, GateLayer)
        scores = case.module.scores(case.x_BQD)
        out = case.module(case.out_BHQV, case.x_BQD)
        if scores is None:
            assert torch.equal(out, case.out_BHQV)
            return
        assert ((scores >= 0) & (scores <= 1)).all()
        per_channel = scores if scores.ndim == 4 else scores.unsqueeze(-1)
        close([out], [case.out_BHQV * per_channel.permute(0, 2, 1, 3)])

    @law
    @given(data=st.data(), shape=shapes(), seed=seeds)
    def test_own_token(self, gate: Drawable[Gate], data: st.DataObject, shape: tuple, seed: int) -> None:
        """A token's gate depends on that token alone."""
        case = _gated(gate, data, shape, seed)
        whole = case.module(case.out_BHQV, case.x_BQD)
        for q in range(case.x_BQD.shape[1]):
            alone = case.module(case.out_BHQV[:, :, q : q + 1], case.x_BQD[:, q : q + 1])
            close([alone], [whole[:, :, q : q + 1]])

    @law
    @given(data=st.data(), shape=shapes(), seed=seeds)
    def test_gradients(self, gate: Drawable[Gate], data: st.DataObject, shape: tuple, seed: int) -> None:
        """The gradient reaches each of the gate's own parameters, and agrees with finite differences."""
        case = _gated(gate, data, shape, seed)
        inputs = [case.out_BHQV.requires_grad_(), case.x_BQD.requires_grad_()]
        slopes = gradients(case.module(*inputs), list(case.module.parameters()))
        assert all((slope != 0).any() for slope in slopes)
        assert torch.autograd.gradcheck(lambda out, x: case.module(out * 1.0, x), inputs)

    @law
    @given(data=st.data(), shape=shapes())
    def test_meta(self, gate: Drawable[Gate], data: st.DataObject, shape: tuple) -> None:
        """A gate builds and runs without memory."""
        batch, queries, heads, value, width = shape
        with torch.device("meta"):
            module = drawn(data, gate).build(width, heads, value)
            out = module(torch.empty(batch, heads, queries, value), torch.empty(batch, queries, width))
        assert out.is_meta
        assert out.shape == (batch, heads, queries, value)


def _gated(
    gate: Drawable[Gate], data: st.DataObject, shape: tuple, seed: int, dtype: torch.dtype = torch.float64
) -> Gated:
    batch, queries, heads, value, width = shape
    module = started(drawn(data, gate).build(width, heads, value), seed, dtype)
    out_BHQV = randn(seed + 1, batch, heads, queries, value, dtype=dtype)
    return Gated(module, randn(seed + 2, batch, queries, width, dtype=dtype), out_BHQV)
