"""Anchors."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from core.nn.auxiliary import listen
from core.testing.anchor import AnchorLaws
from core.testing.draws import built, close, law, randn, seeds, started
from plugins.anchors._diversity import likeness
from plugins.anchors.attention import AttentionAnchors
from plugins.anchors.projection import ProjectionAnchors

COUNTS = {"count": st.integers(1, 5), "diversity": st.sampled_from([0.0, 0.5])}


@pytest.mark.parametrize(
    "anchor", [built(AttentionAnchors, **COUNTS), built(ProjectionAnchors, **COUNTS)], ids=["attention", "proj"]
)
class TestAnchors(AnchorLaws):
    """The laws of anchors."""


@law
@given(seed=seeds)
def test_attention_anchors_are_their_formula(seed: int) -> None:
    """a_k = sum_s softmax_s(q_k . LN(y_s) / sqrt(D)) LN(y_s), written out."""
    layer = started(AttentionAnchors(count=3).build(5), seed)
    y_SD = randn(seed + 1, 6, 5)
    centred = y_SD - y_SD.mean(-1, keepdim=True)
    normed = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    wanted = []
    for query in layer.query:
        weights = (normed @ query / 5**0.5).exp()
        wanted.append((weights[:, None] * normed).sum(0) / weights.sum())
    close([layer(y_SD[None])[0]], [torch.stack(wanted)])


@law
@given(seed=seeds)
def test_projection_anchors_are_their_formula(seed: int) -> None:
    """The anchors of a set are one affine map of the mean of its normalised sources."""
    layer = started(ProjectionAnchors(count=3).build(5), seed)
    y_SD = randn(seed + 1, 6, 5)
    centred = y_SD - y_SD.mean(-1, keepdim=True)
    gist = (centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()).mean(0)
    close([layer(y_SD[None])[0].flatten()], [layer.project.weight @ gist + layer.project.bias])


def test_diversity_is_zero_for_orthogonal_anchors_and_large_for_equal_ones() -> None:
    """weight * ||N N^T - I||_F^2 / A^2: nothing between orthogonal anchors, 1 - 1/A between equal ones."""
    layer = started(ProjectionAnchors(count=4, diversity=0.5).build(4), 0)
    with torch.no_grad():
        layer.project.weight.zero_()
        for bias, wanted in ((torch.eye(4), 0.0), (torch.ones(4, 4), 0.5 * 0.75)):
            layer.project.bias.copy_(bias.flatten())
            with listen() as told:
                layer(randn(0, 2, 3, 4), torch.tensor([[True, True, False], [False, False, False]]))
            assert float(told["anchor_diversity"]) == pytest.approx(wanted)


def test_one_anchor_has_nothing_to_be_apart_from() -> None:
    """A single anchor is like no other: its loss would be 0, so that a weight for it is refused."""
    assert likeness(randn(0, 2, 1, 4)).item() == 0.0
    with pytest.raises(ValueError, match="diversity = 1 does nothing, as count is 1"):
        AttentionAnchors(count=1, diversity=1.0)
