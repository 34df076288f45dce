"""Sparsifiers."""

from __future__ import annotations

import pytest
import torch
from hypothesis import strategies as st

from core.testing.sparsifier import SparsifierLaws
from plugins.sparsifiers.entmax import Entmax
from plugins.sparsifiers.sigmoid_budget import SigmoidBudget
from plugins.sparsifiers.soft_topk import SoftTopK
from plugins.sparsifiers.softmax import Softmax
from plugins.sparsifiers.temperature import Temperature
from plugins.sparsifiers.topk import TopK


warm = Temperature(start=2.0, end=0.5)
still = Temperature()


@pytest.mark.parametrize(
    "sparsifier",
    [
        Softmax(),
        Entmax(alpha=2.0, temperature=still),
        Entmax(alpha=1.5, temperature=still),
        st.builds(Entmax, alpha=st.floats(1.0, 2.0), temperature=st.just(warm)),
        st.builds(Entmax, alpha=st.floats(1.0, 2.0), mode=st.just("annealed"), temperature=st.just(still)),
        st.builds(Entmax, alpha=st.floats(1.0, 2.0), mode=st.just("learned"), temperature=st.just(still)),
        st.builds(TopK, k=st.integers(1, 12), temperature=st.just(warm)),
        st.builds(SoftTopK, k=st.integers(1, 12), temperature=st.just(warm)),
        st.builds(SigmoidBudget, budget=st.floats(0.01, 0.99), temperature=st.just(warm)),
    ],
    ids=["softmax", "sparsemax", "entmax15", "entmax", "annealed", "learned", "topk", "soft_topk", "sigmoid_budget"],
)
class TestSparsifiers(SparsifierLaws):
    """The laws of sparsifiers."""


def test_softmax_leaves_every_visible_source_some_weight() -> None:
    """Softmax is dense over what is visible, in proportion to the exponentials."""
    logits_BHQS = torch.tensor([[[[0.0, 1.0, 2.0, 50.0]]]], dtype=torch.float64)
    visible = torch.tensor([True, True, True, False])
    weights = Softmax().build(heads=1)(logits_BHQS, visible)[0, 0, 0]
    assert (weights[:3] > 0).all()
    torch.testing.assert_close(weights[1:3] / weights[:2], torch.full((2,), 2.718281828459045, dtype=torch.float64))


def test_softmax_hides_nan() -> None:
    """A hidden logit of NaN is as good as any other, in value and gradient."""
    logits = torch.tensor([[[[0.3, float("nan"), -1.0]]]], requires_grad=True)
    weights = Softmax().build(heads=1)(logits, torch.tensor([True, False, True]))
    weights.square().sum().backward()
    assert torch.isfinite(weights).all()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
