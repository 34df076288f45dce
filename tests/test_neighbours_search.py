"""How neighbours are found among many cells, and attention by clusters, against all distances and single lists."""

from __future__ import annotations

import attrs
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from core.kinds import Layout
from core.testing.draws import close, coins, randn
from plugins.kernels import _clustered
from plugins.kernels.gather import Gather
from plugins.masks import neighbours
from plugins.masks.neighbours import Listed, Neighbours, nearest
from plugins.sparsifiers.softmax import Softmax

few = settings(deadline=None, max_examples=8)
CELLS = 700


def places(kind: str, seed: int, sets: int, axes: int) -> Tensor:
    """Cells at random, on a grid full of equal distances, or many at one place."""
    found = randn(seed, sets, CELLS, axes).float()
    return {"random": found, "grid": (4 * found).round(), "heaps": found.round() / 4}[kind]


@few
@given(st.sampled_from(["random", "grid", "heaps"]), st.integers(2, 3), st.integers(1, 20), st.booleans())
def test_a_tree_finds_what_all_distances_find(kind: str, axes: int, k: int, padded: bool) -> None:
    """The same neighbours in the same order, equals by index, padding never."""
    place_BNP = places(kind, k, 2, axes)
    real_BN = coins(k, 2, CELLS, heads=0.9) if padded else None
    if real_BN is not None:
        place_BNP = place_BNP.masked_fill(~real_BN[..., None], float("nan"))
    found = nearest(place_BNP, place_BNP, real_BN, k)
    wanted = neighbours._of_all(place_BNP, place_BNP, real_BN, k)
    keep = torch.ones(2, CELLS, dtype=torch.bool) if real_BN is None else real_BN
    assert torch.equal(found[keep], wanted[keep])


@few
@given(st.integers(1, 20), st.booleans(), st.integers(0, 9))
def test_clusters_give_what_lists_give(k: int, padded: bool, seed: int) -> None:
    """Values and gradients of attention by clusters are those of reading each query's own list."""
    place_BNP, real_BN = places("random", seed, 2, 2), coins(seed, 2, CELLS, heads=0.9) if padded else None
    layout = Layout(queries=CELLS, sources=CELLS, apart=False, place_BQP=place_BNP, real_BS=real_BN)
    mask = Neighbours(k=k).on(layout)
    assert isinstance(mask, Listed)
    assert mask.clustered is not None
    inputs = [randn(seed + i, 2, 2, CELLS, 3).requires_grad_() for i in range(3)]
    told = []
    for one in (mask, attrs.evolve(mask, clusters=None)):
        out_BHQV = Gather().attend(*inputs, one, Softmax().build(2), real_BS=real_BN)
        keep = out_BHQV if real_BN is None else out_BHQV.transpose(1, 2)[real_BN]
        told.append([keep, *torch.autograd.grad(keep.square().sum(), inputs)])
    close(told[0], told[1], 1e-9)


def clustered(places_: Tensor, inputs: list[Tensor], k: int = 5) -> Tensor:
    cells = places_.shape[1]
    mask = Neighbours(k=k).on(Layout(queries=cells, sources=cells, apart=False, place_BQP=places_))
    assert mask.clustered is not None
    return Gather().attend(*inputs, mask, Softmax().build(2))


@pytest.mark.parametrize("room", [1, 5000, 1 << 22])
def test_clusters_are_read_a_few_at_a_time(room: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """However few are copied at once, and with layers recomputed, values are the same and gradients nearly so."""
    places_ = places("random", 3, 1, 2)
    inputs = [randn(4 + i, 1, 2, CELLS, 3).requires_grad_() for i in range(3)]
    plain = clustered(places_, inputs)
    wanted = torch.autograd.grad(plain.square().sum(), inputs)
    monkeypatch.setattr(_clustered, "ROOM", room)
    again = checkpoint(lambda *given: clustered(places_, [*given]), *inputs, use_reentrant=False)
    assert torch.equal(again, plain)
    close(torch.autograd.grad(again.square().sum(), inputs), wanted, 1e-12)


def test_clusters_under_autocast() -> None:
    """Keys in single precision beside values in half, as normalised keys are: gradients to half precision."""
    places_ = places("random", 3, 1, 2)
    inputs = [randn(4 + i, 1, 2, CELLS, 3, dtype=torch.float32).requires_grad_() for i in range(3)]
    wanted = torch.autograd.grad(clustered(places_, inputs).square().sum(), inputs)
    with torch.autocast("cpu", torch.bfloat16):
        half = clustered(places_, [inputs[0], inputs[1], inputs[2].bfloat16()])
    assert half.dtype == torch.bfloat16
    found = torch.autograd.grad(half.float().square().sum(), inputs)
    for a, b in zip(found, wanted, strict=True):
        assert float((a - b).abs().max()) < 0.03 * float(b.abs().max())


def test_neighbours_are_found_once_a_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers that share a layout search once; other places, or the same ones changed, are searched anew."""
    calls = []
    search = neighbours._found
    monkeypatch.setattr(neighbours, "_found", lambda *given: calls.append(1) or search(*given))
    layout = Layout(queries=99, sources=99, apart=False, place_BQP=randn(0, 1, 99, 2), memo={})
    mask = Neighbours(k=1)
    first = mask.on(layout).listed
    assert first is not None
    assert torch.equal(mask.on(attrs.evolve(layout, chance=lambda: 0.5)).listed, first)
    assert len(calls) == 1
    mask.on(attrs.evolve(layout, place_BQP=randn(1, 1, 99, 2)))
    assert len(calls) == 2
    layout.place_BQP.neg_()
    mask.on(layout)
    assert len(calls) == 3
    Neighbours(k=1).on(attrs.evolve(layout, memo=None))
    assert len(calls) == 4


@settings(deadline=None, max_examples=60)
@given(count=st.integers(1, 700), axes=st.integers(1, 3), ties=st.booleans(), seed=st.integers(0, 2**32 - 1))
def test_blocks_are_parts_of_space(count: int, axes: int, ties: bool, seed: int) -> None:
    """Each query stands in one block, all but the last are full, and along some axis any two lie side by side."""
    places = np.random.default_rng(seed).normal(size=(count, axes))
    places = places.round() if ties else places
    order = neighbours._side_by_side(places)
    assert sorted(order) == [*range(count)]
    blocks = [places[order[i : i + neighbours.CLUSTER]] for i in range(0, count, neighbours.CLUSTER)]
    for i, one in enumerate(blocks):
        for other in blocks[:i]:
            low, high = np.maximum(one.min(0), other.min(0)), np.minimum(one.max(0), other.max(0))
            assert (low >= high).any()
