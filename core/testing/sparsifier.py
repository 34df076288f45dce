"""What every sparsifier must do. B batch, H heads, Q query and S source tokens.

@pytest.mark.parametrize("sparsifier", [Softmax()], ids=repr)
class TestSparsifiers(SparsifierLaws): ...
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import attrs
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from core.kinds.sparsifier import Sparsifier
from core.testing.draws import Drawable, close, coins, counted, drawn, gradients, law, randn, seeds, started
from core.train.schedule import advance

few = settings(law, max_examples=6)


@attrs.frozen
class Rows:
    """Logits, what is visible of them, and the module that weighs them."""

    logits_BHQS: Tensor
    visible: Tensor
    module: nn.Module


@st.composite
def shapes(draw: st.DrawFn) -> tuple[int, int, int, int]:
    size = st.integers(1, 3)
    return draw(size), draw(size), draw(size), draw(st.integers(1, 9))


class SparsifierLaws:
    """Laws of `core.kinds.sparsifier.Sparsifier`; parametrise a subclass over `sparsifier`, a plugin or a strategy."""

    @law
    @given(data=st.data(), shape=shapes(), seed=seeds, spread=st.sampled_from([0.1, 1.0, 30.0]))
    def test_simplex(
        self, sparsifier: Drawable[Sparsifier], data: st.DataObject, shape: tuple, seed: int, spread: float
    ) -> None:
        """Weights are >= 0, sum to 1, are exactly 0 where hidden, and all 0 in a row that sees nothing."""
        for dtype in (torch.float32, torch.float64):
            rows = _rows(sparsifier, data, shape, seed, dtype)
            weights = rows.module(rows.logits_BHQS * spread, rows.visible)
            assert weights.shape == shape
            assert weights.dtype == dtype
            assert (weights >= 0).all()
            assert (weights.masked_select(~rows.visible) == 0).all()
            seeing = rows.visible.any(-1).expand(shape[:3]).to(dtype)
            torch.testing.assert_close(weights.sum(-1), seeing, rtol=1e-5, atol=1e-5)

    @law
    @given(data=st.data(), shape=shapes(), seed=seeds)
    def test_hidden_logits(
        self, sparsifier: Drawable[Sparsifier], data: st.DataObject, shape: tuple, seed: int
    ) -> None:
        """What a hidden logit holds changes neither weights nor gradients, and its own gradient is 0."""
        rows = _rows(sparsifier, data, shape, seed)
        hidden = (~rows.visible).expand(shape)
        outcomes = []
        for content in (0.0, 1e30, -1e30):
            logits = rows.logits_BHQS.masked_fill(hidden, content).requires_grad_()
            weights = rows.module(logits, rows.visible)
            (slope,) = gradients(weights, [logits])
            assert (slope[hidden] == 0).all()
            outcomes.append([weights.detach(), slope])
        close(outcomes[1], outcomes[0])
        close(outcomes[2], outcomes[0])

    @law
    @given(data=st.data(), shape=shapes(), seed=seeds)
    def test_order(self, sparsifier: Drawable[Sparsifier], data: st.DataObject, shape: tuple, seed: int) -> None:
        """A visible source with a greater logit never gets less weight."""
        rows = _rows(sparsifier, data, shape, seed)
        weights = rows.module(rows.logits_BHQS, rows.visible)
        both = rows.visible[..., :, None] & rows.visible[..., None, :]
        above = rows.logits_BHQS[..., :, None] >= rows.logits_BHQS[..., None, :]
        lead = weights[..., :, None] - weights[..., None, :]
        assert (lead.masked_select(both & above) >= -1e-12).all()

    @law
    @given(data=st.data(), shape=shapes(), seed=seeds, shift=st.floats(-100, 100))
    def test_shift(
        self, sparsifier: Drawable[Sparsifier], data: st.DataObject, shape: tuple, seed: int, shift: float
    ) -> None:
        """Adding a constant to a row of logits changes nothing."""
        rows = _rows(sparsifier, data, shape, seed)
        moved = rows.module(rows.logits_BHQS + shift, rows.visible)
        close([moved], [rows.module(rows.logits_BHQS, rows.visible)])

    @law
    @given(data=st.data(), shape=shapes(), seed=seeds)
    def test_permutation(self, sparsifier: Drawable[Sparsifier], data: st.DataObject, shape: tuple, seed: int) -> None:
        """Weights go with their sources when these change places."""
        rows = _rows(sparsifier, data, shape, seed)
        order = torch.randperm(shape[-1], generator=torch.Generator().manual_seed(seed))
        turned = rows.module(rows.logits_BHQS[..., order], rows.visible[..., order])
        close([turned], [rows.module(rows.logits_BHQS, rows.visible)[..., order]])

    @few
    @given(data=st.data(), shape=shapes(), seed=seeds)
    def test_gradients(self, sparsifier: Drawable[Sparsifier], data: st.DataObject, shape: tuple, seed: int) -> None:
        """Gradients of logits and parameters agree with finite differences in float64, those of a graph as well."""
        _, heads, queries, sources = shape
        weigh, inputs = _function(_rows(sparsifier, data, (1, heads, min(queries, 2), sources), seed))
        assert torch.autograd.gradcheck(weigh, inputs)
        out = weigh(*inputs)
        total = (out * randn(seed + 2, *out.shape)).sum()
        plain = torch.autograd.grad(total, inputs, retain_graph=True)
        close(torch.autograd.grad(total, inputs, create_graph=True), plain)

    @few
    @given(data=st.data(), shape=shapes(), seed=seeds)
    def test_second_gradients(
        self, sparsifier: Drawable[Sparsifier], data: st.DataObject, shape: tuple, seed: int
    ) -> None:
        """Second derivatives agree with finite differences of the first in float64."""
        _, heads, _, sources = shape
        weigh, inputs = _function(_rows(sparsifier, data, (1, heads, 1, min(sources, 5)), seed))
        assert torch.autograd.gradgradcheck(weigh, inputs)

    @law
    @given(data=st.data(), shape=shapes(), seed=seeds)
    def test_infinite(self, sparsifier: Drawable[Sparsifier], data: st.DataObject, shape: tuple, seed: int) -> None:
        """Logits of +inf, -inf and the ends of the dtype give finite gradients, and weights of a simplex.

        A row whose visible logits are all -inf sees nothing.
        """
        rows = _rows(sparsifier, data, shape, seed, torch.float32)
        most = torch.finfo(torch.float32).max
        content = torch.tensor([torch.inf, -torch.inf, most, -most, 0.0, 1.0])
        chosen = torch.randint(len(content), shape, generator=torch.Generator().manual_seed(seed + 3))
        logits = content[chosen].requires_grad_()
        weights = rows.module(logits, rows.visible)
        assert ((weights >= 0) & (weights <= 1 + 1e-5)).all()
        total = weights.sum(-1)
        seeing = (rows.visible & (logits > -torch.inf)).any(-1)
        torch.testing.assert_close(total[seeing], torch.ones_like(total[seeing]), rtol=1e-5, atol=1e-5)
        assert (weights[~seeing] == 0).all()
        assert all(torch.isfinite(slope).all() for slope in gradients(weights, [logits]))

    @few
    @given(data=st.data(), shape=shapes(), seed=seeds, dtype=st.sampled_from([torch.bfloat16, torch.float16]))
    def test_half(
        self, sparsifier: Drawable[Sparsifier], data: st.DataObject, shape: tuple, seed: int, dtype: torch.dtype
    ) -> None:
        """Half precision loses no more than the rounding of each weight: |difference| and |sum - 1| within 1 %."""
        rows = _rows(sparsifier, data, shape, seed, torch.float32)
        logits = (3.0 * rows.logits_BHQS).to(dtype)
        weights = rows.module(logits, rows.visible)
        assert weights.dtype == dtype
        wide = rows.module(logits.float(), rows.visible)
        torch.testing.assert_close(weights.float(), wide, rtol=1e-2, atol=1e-6)
        seeing = rows.visible.any(-1).expand(shape[:3]).float()
        torch.testing.assert_close(weights.float().sum(-1), seeing, rtol=1e-2, atol=1e-6)

    @few
    @given(data=st.data(), shape=shapes(), seed=seeds)
    def test_autocast(self, sparsifier: Drawable[Sparsifier], data: st.DataObject, shape: tuple, seed: int) -> None:
        """Autocast leaves the numerics in float32, and the dtype that of the logits, forward and backward."""
        rows = _rows(sparsifier, data, shape, seed, torch.float32)
        outcomes = []
        for enabled in (False, True):
            logits = rows.logits_BHQS.clone().requires_grad_()
            with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
                weights = rows.module(logits, rows.visible)
            assert weights.dtype == torch.float32
            outcomes.append([weights.detach(), *gradients(weights, [logits])])
        close(outcomes[1], outcomes[0], 1e-6)

    @few
    @given(data=st.data(), shape=shapes(), seed=seeds, progress=st.sampled_from([0.0, 0.2, 1.0]))
    def test_state(
        self, sparsifier: Drawable[Sparsifier], data: st.DataObject, shape: tuple, seed: int, progress: float
    ) -> None:
        """A state taken in the midst of a schedule gives another module the same weights, bit for bit."""
        plugin = drawn(data, sparsifier)
        rows = _rows(plugin, data, shape, seed)
        other = started(plugin.build(shape[1]), seed + 1)
        advance(rows.module, progress)
        other.load_state_dict(copy.deepcopy(rows.module.state_dict()))
        assert torch.equal(other(rows.logits_BHQS, rows.visible), rows.module(rows.logits_BHQS, rows.visible))

    @few
    @given(data=st.data(), shape=shapes(), seed=seeds)
    def test_batch(self, sparsifier: Drawable[Sparsifier], data: st.DataObject, shape: tuple, seed: int) -> None:
        """A set's weights do not depend on its neighbours in the batch, and a batch may be empty."""
        rows = _rows(sparsifier, data, shape, seed)
        every = rows.visible.expand(shape)
        whole = rows.module(rows.logits_BHQS, every)
        close([rows.module(rows.logits_BHQS[:1], every[:1])], [whole[:1]])
        assert rows.module(rows.logits_BHQS[:0], every[:0]).shape == (0, *shape[1:])

    @few
    @given(data=st.data(), shape=shapes())
    def test_meta(self, sparsifier: Drawable[Sparsifier], data: st.DataObject, shape: tuple) -> None:
        """A sparsifier builds and runs without memory; it has as many parameters as it says, and needs no product."""
        plugin = drawn(data, sparsifier)
        with torch.device("meta"), FlopCounterMode(display=False) as counter:
            module = plugin.build(shape[1])
            weights = module(torch.empty(shape), torch.ones(shape, dtype=torch.bool))
        counted("params", plugin.params(shape[1]), sum(p.numel() for p in module.parameters()))
        assert counter.get_total_flops() == 0
        assert weights.is_meta
        assert weights.shape == shape

    @law
    @given(data=st.data(), shape=shapes(), seed=seeds)
    def test_fused(self, sparsifier: Drawable[Sparsifier], data: st.DataObject, shape: tuple, seed: int) -> None:
        """The module repeats the plugin's `fused`, and is softmax where that says a kernel may replace it."""
        plugin = drawn(data, sparsifier)
        rows = _rows(plugin, data, shape, seed)
        assert getattr(rows.module, "fused", False) == plugin.fused
        if plugin.fused:
            exponentials = rows.logits_BHQS.exp() * rows.visible
            total = exponentials.sum(-1, keepdim=True)
            close([rows.module(rows.logits_BHQS, rows.visible)], [exponentials / total.masked_fill(total == 0, 1.0)])


def _function(rows: Rows) -> tuple[Callable[..., Tensor], list[Tensor]]:
    """The weights as a function of logits and parameters, and these."""
    named = dict(rows.module.named_parameters())
    inputs = [rows.logits_BHQS, *(parameter.detach() for parameter in named.values())]

    def weigh(logits: Tensor, *values: Tensor) -> Tensor:
        given = dict(zip(named, values, strict=True))
        return torch.func.functional_call(rows.module, given, (logits, rows.visible))

    return weigh, [tensor.requires_grad_() for tensor in inputs]


def _rows(
    sparsifier: Drawable[Sparsifier], data: st.DataObject, shape: tuple, seed: int, dtype: torch.dtype = torch.float64
) -> Rows:
    batch, heads, queries, sources = shape
    seen_shape = data.draw(st.sampled_from([shape, (batch, 1, 1, sources), (queries, sources)]), label="visible")
    module = started(drawn(data, sparsifier).build(heads), seed, dtype)
    return Rows(randn(seed, *shape, dtype=dtype), coins(seed + 1, *seen_shape), module)
