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
from torch.utils.flop_counter import FlopCounterMode

from core.kinds.gate import Gate, GateLayer
from core.testing.draws import Drawable, close, counted, drawn, gradients, law, randn, reached, refuse, seeds, started

sizes = st.integers(1, 4)
widths = st.integers(2, 7)
"""a matrix of one number that is projected onto a norm has no slope left"""


@attrs.frozen
class Sizes:
    """B, Q, H, V and D of a case."""

    batch: int
    queries: int
    heads: int
    value: int
    width: int


@attrs.frozen
class Gated:
    """A gate's module, tokens, and what their heads read."""

    module: nn.Module
    x_BQD: Tensor
    out_BHQV: Tensor
    sizes: Sizes


class GateLaws:
    """Laws of `core.kinds.gate.Gate`; parametrise a subclass over `gate`, a plugin or a strategy of plugins.

    Numbers of heads that a gate refuses to scale are drawn again.
    """

    @law
    @given(data=st.data(), seed=seeds)
    def test_shape_and_dtype(self, gate: Drawable[Gate], data: st.DataObject, seed: int) -> None:
        """What comes out has the shape and dtype of what was read, also where tokens are wider and under autocast."""
        for dtype in (torch.float32, torch.float64):
            case = self._gated(gate, data, seed, dtype)
            for read, autocast in ((dtype, False), (torch.bfloat16, False), (torch.bfloat16, dtype == torch.float32)):
                with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                    out = case.module(case.out_BHQV.to(read), case.x_BQD)
                assert out.shape == case.out_BHQV.shape
                assert out.dtype == read

    @law
    @given(data=st.data(), seed=seeds)
    def test_scores(self, gate: Drawable[Gate], data: st.DataObject, seed: int) -> None:
        """Scores lie in [0, 1], and multiply: scores of 1, or none at all, leave the input as it is."""
        case = self._gated(gate, data, seed)
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
    @given(data=st.data(), seed=seeds)
    def test_own_token(self, gate: Drawable[Gate], data: st.DataObject, seed: int) -> None:
        """A token's gate depends on that token alone."""
        case = self._gated(gate, data, seed)
        whole = case.module(case.out_BHQV, case.x_BQD)
        for q in range(case.x_BQD.shape[1]):
            alone = case.module(case.out_BHQV[:, :, q : q + 1], case.x_BQD[:, q : q + 1])
            close([alone], [whole[:, :, q : q + 1]])

    @law
    @given(data=st.data(), seed=seeds)
    def test_gradients(self, gate: Drawable[Gate], data: st.DataObject, seed: int) -> None:
        """The gradient reaches each of the gate's own parameters, and agrees with finite differences."""
        case = self._gated(gate, data, seed)
        inputs = [case.out_BHQV.requires_grad_(), case.x_BQD.requires_grad_()]
        slopes = gradients(case.module(*inputs), list(case.module.parameters()))
        reached(case.module, slopes)
        assert torch.autograd.gradcheck(lambda out, x: case.module(out * 1.0, x), inputs)

    @law
    @given(data=st.data())
    def test_meta(self, gate: Drawable[Gate], data: st.DataObject) -> None:
        """A gate builds and runs without memory."""
        with torch.device("meta"):
            n, module = self._built(drawn(data, gate), data)
            out = module(torch.empty(n.batch, n.heads, n.queries, n.value), torch.empty(n.batch, n.queries, n.width))
        assert out.is_meta
        assert out.shape == (n.batch, n.heads, n.queries, n.value)

    @law
    @given(data=st.data())
    def test_closed_forms(self, gate: Drawable[Gate], data: st.DataObject) -> None:
        """`params` and `flops` are what counters find, in a pass without memory."""
        plugin = drawn(data, gate)
        with torch.device("meta"):
            n, module = self._built(plugin, data)
            module = module.eval()
            with FlopCounterMode(display=False) as counter:
                module(torch.empty(1, n.heads, n.queries, n.value), torch.empty(1, n.queries, n.width))
        counted("params", plugin.params(n.width, n.heads, n.value), sum(p.numel() for p in module.parameters()))
        counted("flops", plugin.flops(n.width, n.heads, n.value, n.queries), counter.get_total_flops())

    @law
    @given(data=st.data(), seed=seeds)
    def test_state(self, gate: Drawable[Gate], data: st.DataObject, seed: int) -> None:
        """A gate that loads the state of another is that gate."""
        plugin = drawn(data, gate)
        case = self._gated(plugin, data, seed)
        n = case.sizes
        fresh = plugin.build(n.width, n.heads, n.value).double()
        fresh.load_state_dict(case.module.state_dict())
        assert torch.equal(fresh(case.out_BHQV, case.x_BQD), case.module(case.out_BHQV, case.x_BQD))

    @law
    @given(data=st.data(), seed=seeds, size=st.sampled_from([1e6, -1e6, 1e30, -1e30]))
    def test_large_tokens(self, gate: Drawable[Gate], data: st.DataObject, seed: int, size: float) -> None:
        """Scores of a finite token lie in [0, 1] and what comes out is finite, however large the token is."""
        case = self._gated(gate, data, seed, torch.float32)
        scores = case.module.scores(case.x_BQD * size)  # type: ignore[operator]
        assert scores is None or ((scores >= 0) & (scores <= 1)).all()
        assert torch.isfinite(case.module(case.out_BHQV, case.x_BQD * size)).all()

    def _gated(self, gate: Drawable[Gate], data: st.DataObject, seed: int, dtype: torch.dtype = torch.float64) -> Gated:
        """A gate as training may have left it: a start at zero, which some have, hides what its parameters do."""
        n, module = self._built(drawn(data, gate), data)
        module = started(module, seed, dtype)
        with torch.no_grad():
            for i, parameter in enumerate(module.parameters()):
                parameter.add_(0.5 * randn(seed + 3 + i, *parameter.shape, dtype=dtype))
        out_BHQV = randn(seed + 1, n.batch, n.heads, n.queries, n.value, dtype=dtype)
        return Gated(module, randn(seed + 2, n.batch, n.queries, n.width, dtype=dtype), out_BHQV, n)

    def _built(self, plugin: Gate, data: st.DataObject) -> tuple[Sizes, nn.Module]:
        drawn_from = dict.fromkeys((field.name for field in attrs.fields(Sizes)), sizes) | {"width": widths}
        n = Sizes(**{name: data.draw(size, label=name) for name, size in drawn_from.items()})
        try:
            return n, plugin.build(n.width, n.heads, n.value)
        except ValueError as error:  # the gate cannot scale that many heads
            refuse(error)
