"""Poolings."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from core.testing.draws import close, law, randn, seeds, started
from core.testing.pooling import PoolingLaws
from plugins.anchors.attention import AttentionAnchors
from plugins.anchors.projection import ProjectionAnchors
from plugins.pooling.anchor_guided import AnchorGuided
from plugins.pooling.anchor_temp import AnchorTemp
from plugins.pooling.cls import Cls
from plugins.pooling.mean import Mean
from plugins.pooling.sequence import Sequence

GUIDED = [AnchorGuided(anchor=AttentionAnchors(count=3)), AnchorGuided(anchor=ProjectionAnchors())]
LEARNED = [Sequence(), AnchorTemp(), *GUIDED]


@pytest.mark.parametrize("pooling", [Mean(), Cls(), Sequence(), AnchorTemp(), st.sampled_from(GUIDED)], ids=repr)
class TestPoolings(PoolingLaws):
    """The laws of poolings."""


@pytest.mark.parametrize("pooling", LEARNED, ids=repr)
def test_learned_poolings_start_as_the_mean(pooling: Sequence) -> None:
    """An arm with a learned pooling begins where the arm with the mean begins."""
    x_BTD, real_BT = randn(0, 2, 5, 4), torch.tensor([[True] * 5, [True, False, True, False, False]])
    close([started(pooling.build(4), 0)(x_BTD, real_BT)], [Mean().build(4)(x_BTD, real_BT)])


def test_cls_is_the_first_real_token() -> None:
    """The first token that is no padding, as it is."""
    x_BTD = randn(0, 2, 3, 4)
    real_BT = torch.tensor([[True, True, False], [False, True, True]])
    assert torch.equal(Cls().build(4)(x_BTD, real_BT), torch.stack([x_BTD[0, 0], x_BTD[1, 1]]))


@law
@given(seed=seeds, partner=st.booleans())
def test_guided_weights_are_written_out(seed: int, partner: bool) -> None:
    """softmax((a . LN(x) + lambda mean_k cos(LN(x), a_k)) / (1 + softplus(u . mean LN(o)))), times the tokens."""
    layer = started(AnchorGuided(anchor=AttentionAnchors(count=3)).build(5), seed)
    temp, plain = started(AnchorTemp().build(5), seed), started(Sequence().build(5), seed)
    with torch.no_grad():
        for module in (layer, temp, plain):
            module.score.copy_(randn(seed, 5))
        for module in (layer, temp):
            module.temperature.copy_(randn(seed + 1, 5))
        layer.guidance.fill_(1.5)
    x_TD = randn(seed + 2, 6, 5)
    o_SD = randn(seed + 3, 4, 5) if partner else x_TD
    marks = {"other": o_SD[None]} if partner else {}
    normed, other = (torch.nn.functional.layer_norm(z, (5,)) for z in (x_TD, o_SD))
    temperature = 1 + torch.log1p((other.mean(0) @ layer.temperature).exp())
    cosines = torch.nn.functional.cosine_similarity(normed[:, None], layer.anchor(o_SD[None])[0][None], dim=-1)
    logits = normed @ layer.score
    for module, scores in (
        (plain, logits),
        (temp, logits / temperature),
        (layer, (logits + 1.5 * cosines.mean(1)) / temperature),
    ):
        weights = scores.exp() / scores.exp().sum()
        close([module(x_TD[None], None, marks)[0]], [weights @ x_TD])


@pytest.mark.parametrize("pooling", LEARNED, ids=repr)
def test_another_set_without_real_tokens_is_no_set(pooling: Sequence) -> None:
    """A partner that is all padding gives what a partner without tokens gives, finite and without gradient of NaN."""
    layer = started(pooling.build(4), 0)
    with torch.no_grad():
        for i, parameter in enumerate(layer.parameters()):
            parameter.copy_(randn(i, *parameter.shape))
    x_BTD = randn(9, 2, 5, 4).requires_grad_()
    hidden = {"other": torch.full((2, 3, 4), torch.nan).double(), "other_real": torch.zeros(2, 3, dtype=torch.bool)}
    found = [layer(x_BTD, None, marks) for marks in (hidden, {"other": torch.zeros(2, 0, 4).double()})]
    close(found[:1], found[1:])
    (slope,) = torch.autograd.grad(found[0].sum(), x_BTD)
    assert torch.isfinite(slope).all()
