"""What every sparsifier must do. B batch, H heads, Q query and S source tokens.

@pytest.mark.parametrize("sparsifier", [Softmax()], ids=repr)
class TestSparsifiers(SparsifierLaws): ...
"""

from __future__ import annotations

import attrs
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from core.kinds.sparsifier import Sparsifier
from core.testing.draws import Drawable, close, coins, drawn, gradients, law, randn, seeds, started


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
    def test_gradients(self, sparsifier: Drawable[Sparsifier], data: st.DataObject, shape: tuple, seed: int) -> None:
        """Gradients agree with finite differences in float64."""
        rows = _rows(sparsifier, data, shape, seed)
        logits = rows.logits_BHQS.requires_grad_()
        assert torch.autograd.gradcheck(rows.module, (logits, rows.visible))

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


def _rows(
    sparsifier: Drawable[Sparsifier], data: st.DataObject, shape: tuple, seed: int, dtype: torch.dtype = torch.float64
) -> Rows:
    batch, heads, queries, sources = shape
    seen_shape = data.draw(st.sampled_from([shape, (batch, 1, 1, sources), (queries, sources)]))
    module = started(drawn(data, sparsifier).build(heads), seed, dtype)
    return Rows(randn(seed, *shape, dtype=dtype), coins(seed + 1, *seen_shape), module)
