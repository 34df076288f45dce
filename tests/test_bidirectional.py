"""Attention between two sides of one sequence."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from core.kinds import NoWeights
from core.kinds.mask import Layout
from core.testing.attention import AttentionLaws
from core.testing.draws import close, coins, gradients, law, randn, seeds, started
from core.testing.mask import Table
from plugins.attention.bidirectional import Bidirectional
from plugins.attention.linear import Linear
from plugins.attention.pairwise import Pairwise
from plugins.gates.none import NoGate
from plugins.kernels.reference import Reference
from plugins.masks.full import Full
from plugins.masks.window import Window
from plugins.positions.none import NoPosition
from plugins.positions.rope import Rope
from plugins.sparsifiers.softmax import Softmax


def plain(**given: object) -> Pairwise:
    parts = {"mask": Full(), "sparsifier": Softmax(), "gate": NoGate(), "kernel": Reference()}
    return Pairwise(**({"heads": 2, "position": NoPosition(), "anchor": None} | parts | given))


inners = st.sampled_from([plain(), plain(position=Rope(origin="centre")), plain(mask=Window(w=1, coord="aligned")),
                          Linear(heads=2, gate=NoGate())])  # fmt: skip
sides = st.integers(1, 5)
both = st.builds(Bidirectional, inner=inners, shared=st.booleans())


@pytest.mark.parametrize("attention", [both], ids=["bidirectional"])
class TestBidirectional(AttentionLaws):
    """The laws of attention."""


@law
@given(seed=seeds, inner=inners, shared=st.booleans(), first=sides, second=sides)
def test_each_side_reads_the_other_as_cross_attention_does(
    seed: int, inner: Pairwise, shared: bool, first: int, second: int
) -> None:
    """Both halves of the output, and all gradients, are those of two cross attentions, whatever padding holds."""
    layer = started(Bidirectional(inner=inner, shared=shared).build(8), seed)
    x_BND = randn(seed + 1, 2, first + second, 8)
    real_BN = coins(seed + 2, 2, first + second)
    real_BN[:, 0] = real_BN[:, first] = True
    real_BN = torch.cat([part.sort(dim=1, descending=True).values for part in real_BN.split([first, second], 1)], 1)
    dirty_BND = x_BND.masked_fill(~real_BN[..., None], torch.nan)
    found = layer(dirty_BND, real_BS=real_BN, layout=Layout(first=first))
    one, two = x_BND.split([first, second], 1)
    real_one, real_two = real_BN.split([first, second], 1)
    back = layer.there if shared else layer.back
    wanted = torch.cat(
        [
            layer.there(one, context_BSD=two, real_BS=real_two, layout=Layout(real_BQ=real_one)),
            back(two, context_BSD=one, real_BS=real_one, layout=Layout(real_BQ=real_two)),
        ],
        1,
    )
    weights = [*layer.parameters()]
    close([found[real_BN]], [wanted[real_BN]])
    close(gradients(found[real_BN], weights), gradients(wanted[real_BN], weights))


@law
@given(seed=seeds, inner=inners, first=st.integers(2, 5), second=sides)
def test_a_side_never_sees_itself(seed: int, inner: Pairwise, first: int, second: int) -> None:
    """Another token of the same side changes nothing of what a token reads."""
    layer = started(Bidirectional(inner=inner, shared=False).build(8), seed)
    x_BND = randn(seed + 1, 2, first + second, 8)
    moved_BND = x_BND.clone()
    moved_BND[:, 1:first] += 5
    layout = Layout(first=first)
    assert torch.equal(layer(moved_BND, layout=layout)[:, 0], layer(x_BND, layout=layout)[:, 0])
    assert not torch.equal(layer(moved_BND, layout=layout)[:, first:], layer(x_BND, layout=layout)[:, first:])


def test_shared_directions_have_one_set_of_weights() -> None:
    """Sharing halves the parameters."""
    counts = [
        sum(p.numel() for p in Bidirectional(inner=plain(), shared=s).build(8).parameters()) for s in (True, False)
    ]
    assert 2 * counts[0] == counts[1]


@law
@given(seed=seeds)
def test_a_bias_goes_with_its_pairs(seed: int) -> None:
    """Of a bias over the whole sequence each direction takes its block."""
    layer = started(Bidirectional(inner=plain(), shared=True).build(8), seed)
    x_BND, bias = randn(seed + 1, 1, 5, 8), randn(seed + 2, 5, 5)
    found = layer(x_BND, bias=bias, layout=Layout(first=2))
    close([found[:, :2]], [layer.there(x_BND[:, :2], context_BSD=x_BND[:, 2:], bias=bias[:2, 2:])])
    close([found[:, 2:]], [layer.there(x_BND[:, 2:], context_BSD=x_BND[:, :2], bias=bias[2:, :2])])
    flat = layer(x_BND, bias=bias[:1], layout=Layout(first=2))
    close([flat[:, 2:]], [layer.there(x_BND[:, 2:], context_BSD=x_BND[:, :2], bias=bias[:1, :2])])


def test_what_it_needs_and_refuses_is_said() -> None:
    """No place of the second side, an impossible one, a mask over pairs, both matrices at once."""
    layer = Bidirectional(inner=plain(), shared=False).build(8)
    x_BND = torch.zeros(1, 4, 8)
    for layout in (None, Layout(), Layout(first=torch.tensor([2]))):
        with pytest.raises(ValueError, match=r"for two sides in one sequence"):
            layer(x_BND, layout=layout)
    with pytest.raises(ValueError, match=r"layout\.first = 7 is no place in a sequence of 4 tokens"):
        layer(x_BND, layout=Layout(first=7))
    with pytest.raises(ValueError, match="fixes who sees whom"):
        layer(x_BND, Table(torch.ones(4, 4, dtype=torch.bool)), layout=Layout(first=2))
    with pytest.raises(NoWeights, match="two matrices"):
        layer.weights(x_BND, layout=Layout(first=2))
    assert layer.weights(x_BND[:, :2], context_BSD=x_BND[:, 2:]).shape == (1, 2, 2, 2)


def test_it_runs_without_memory() -> None:
    """Meta tensors give shapes."""
    with torch.device("meta"):
        layer = Bidirectional(inner=plain(), shared=False).build(8)
        real_BN = torch.empty(2, 5, dtype=torch.bool)
        assert layer(torch.empty(2, 5, 8), real_BS=real_BN, layout=Layout(first=2)).shape == (2, 5, 8)
