"""Kernels."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from core.errors import UserError
from core.kinds.kernel import Kernel, Request
from core.kinds.mask import Layout, Mask
from core.testing.draws import close, gradients, randn
from core.testing.kernel import Explicit, KernelLaws
from core.testing.mask import Table
from plugins.kernels import auto
from plugins.kernels.auto import Auto
from plugins.kernels.block_local import BlockLocal
from plugins.kernels.gather import Gather
from plugins.kernels.reference import Reference
from plugins.kernels.sdpa import Sdpa
from plugins.kernels.sdpa_masked import SdpaMasked
from plugins.masks.full import Full
from plugins.masks.window import Window
from plugins.masks.window_anchor import WindowAnchor
from plugins.masks.window_causal import WindowCausal


class Row:
    """A registry row as `Auto` reads it."""

    def __init__(self, target: type | UserError) -> None:
        self.target = target
        self.preset: dict = {}

    def load(self) -> type:
        if isinstance(self.target, UserError):
            raise self.target
        return self.target


class Shelf:
    """A registry that holds these kernels, in an order that is not that of priority."""

    def __init__(self, *targets: type | UserError) -> None:
        self.targets = targets

    def rows(self, kind: str) -> list[Row]:
        assert kind == "kernel"
        return [Row(target) for target in self.targets]


@pytest.fixture(autouse=True)
def _shelf(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    shelve(monkeypatch, Reference, Auto, SdpaMasked, Sdpa, Gather, BlockLocal)
    yield
    forget()


def shelve(monkeypatch: pytest.MonkeyPatch, *targets: type | UserError) -> None:
    monkeypatch.setattr("core.registry.installed", lambda: Shelf(*targets))
    forget()


def forget() -> None:
    auto.candidates.cache_clear()
    auto._choose.cache_clear()


@pytest.mark.parametrize("kernel", [Sdpa(), SdpaMasked(), BlockLocal(), Gather(), Reference(), Auto()], ids=repr)
class TestKernels(KernelLaws):
    """The laws of kernels."""


def request(**given: object) -> Request:
    return Request(**({"fused": True, "form": "full", "padded": False, "bias": False} | given))


def other_form(form: str) -> list[str]:
    """What the kernels for local masks say of another form."""
    return [
        f"block_local serves masks of bounded width, and this one is of form {form}",
        f"gather serves masks that list the sources of a query, and this one is of form {form}",
    ]


@pytest.mark.parametrize(
    ("given", "chosen", "refused"),
    [
        ({}, Sdpa, []),
        ({"form": "causal"}, Sdpa, []),
        ({"padded": True}, SdpaMasked, ["sdpa takes no padding", *other_form("full")]),
        ({"bias": True}, SdpaMasked, ["sdpa takes no bias", *other_form("full")]),
        ({"form": "window"}, BlockLocal, ["sdpa knows full and causal masks, and this one is of form window"]),
        (
            {"form": "window", "bias": True},
            SdpaMasked,
            [
                "sdpa knows full and causal masks, and this one is of form window",
                "block_local takes no bias: one over all pairs is Q x S already",
                other_form("window")[1],
            ],
        ),
        (
            {"form": "listed", "fused": False, "padded": True},
            Gather,
            ["sdpa computes softmax alone, and this sparsifier needs the logits", other_form("listed")[0]],
        ),
        (
            {"fused": False},
            Reference,
            [
                "sdpa computes softmax alone, and this sparsifier needs the logits",
                *other_form("full"),
                "sdpa_masked computes softmax alone, and this sparsifier needs the logits",
            ],
        ),
    ],
    ids=str,
)
def test_auto_takes_the_first_that_does_not_refuse(given: dict, chosen: type, refused: list[str]) -> None:
    """Auto asks in order of priority, not of installation, and keeps the reasons of those that refused."""
    kernel, refusals = Auto().plan(request(**given))
    assert type(kernel) is chosen
    assert refusals == refused
    assert Auto().refuses(request(**given)) is None


def test_auto_passes_over_what_does_not_load(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel whose package is broken is a reason in the list, and the others go on."""
    shelve(monkeypatch, UserError("acme kernel cannot be loaded"), Reference)
    kernel, refusals = Auto().plan(request())
    assert type(kernel) is Reference
    assert refusals == ["acme kernel cannot be loaded"]


def test_auto_says_why_nothing_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where every kernel refuses, the error holds every reason."""
    shelve(monkeypatch, Sdpa, SdpaMasked)
    refusal = Auto().refuses(request(fused=False))
    assert refusal is not None
    assert "sdpa computes" in refusal
    with pytest.raises(ValueError, match=r"no installed kernel serves .*sdpa computes .*; sdpa_masked computes"):
        Auto().plan(request(fused=False))
    shelve(monkeypatch, Auto)
    with pytest.raises(ValueError, match="none is installed"):
        Auto().plan(request())


def test_auto_keeps_its_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels are asked once a request; a caller that edits the reasons does not edit the next caller's."""
    _, refusals = Auto().plan(request(padded=True))
    refusals.clear()
    monkeypatch.setattr(Sdpa, "refuses", lambda self, request: pytest.fail("asked again"))
    assert Auto().plan(request(padded=True))[1] == ["sdpa takes no padding", *other_form("full")]


@pytest.mark.parametrize("kernel", [Sdpa(), SdpaMasked()], ids=repr)
@pytest.mark.parametrize(("queries", "sources"), [(63, 1000), (1000, 63), (257, 129)])
def test_blocks(kernel: Kernel, queries: int, sources: int) -> None:
    """Sizes that no block divides give what the explicit matrix gives, in values and gradients."""
    inputs = [randn(i, 1, 2, n, 8).requires_grad_() for i, n in enumerate((queries, sources, sources))]
    q_BHQK, k_BHSK, v_BHSK = inputs
    real_BS = None if isinstance(kernel, Sdpa) else torch.arange(sources)[None] < sources - 7
    found = kernel.attend(q_BHQK, k_BHSK, v_BHSK, Full(), Explicit(True), real_BS=real_BS)
    wanted = Reference().attend(q_BHQK, k_BHSK, v_BHSK, Full(), Explicit(True), real_BS=real_BS)
    close([found, *gradients(found, inputs)], [wanted, *gradients(wanted, inputs)])


@pytest.mark.parametrize(
    ("mask", "padded", "shape"),
    [(Full(), True, (2, 1, 1, 5)), (Table(torch.eye(4, 5) == 0), False, (1, 1, 4, 5)), (Full(), False, None)],
    ids=["padding", "pairs", "neither"],
)
def test_mask_tensor_is_as_small_as_it_can_be(
    monkeypatch: pytest.MonkeyPatch, mask: Full | Table, padded: bool, shape: tuple | None
) -> None:
    """Padding alone never becomes a matrix over pairs: the mask handed on has one row, so memory stays linear."""
    seen: list[Tensor | None] = []

    def spy(q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        seen.append(attn_mask)
        return original(q, k, v, attn_mask=attn_mask)

    original = F.scaled_dot_product_attention
    monkeypatch.setattr(F, "scaled_dot_product_attention", spy)
    real_BS = torch.tensor([[True] * 5, [True] * 3 + [False] * 2]) if padded else None
    q_BHQK, k_BHSK = randn(0, 2, 3, 4, 6), randn(1, 2, 3, 5, 6)
    SdpaMasked().attend(q_BHQK, k_BHSK, k_BHSK, mask, Explicit(True), real_BS=real_BS)
    (given,) = seen
    assert (None if given is None else tuple(given.shape)) == shape


@pytest.mark.parametrize("fused", [True, False], ids=["fused", "explicit"])
@pytest.mark.parametrize("padded", [False, True], ids=["whole", "padded"])
@pytest.mark.parametrize(
    ("mask", "queries", "sources"),
    [
        (Window(w=3), 257, 257),
        (WindowCausal(w=40), 300, 300),
        (WindowAnchor(window=33, anchors=5), 200, 205),
        (Window(w=5), 300, 100),
        (Window(w=5), 100, 300),
        (WindowAnchor(window=0, anchors=1), 1, 2),
        (WindowAnchor(window=2, anchors=3), 1, 300),
        (Window(w=2, coord="concat"), 90, 130),
    ],
    ids=str,
)
def test_windows_in_many_blocks(mask: Mask, queries: int, sources: int, padded: bool, fused: bool) -> None:
    """Sizes that no block divides, and sequences of unlike length, give what the explicit matrix gives."""
    inputs = [randn(i, 2, 2, n, 4).requires_grad_() for i, n in enumerate((queries, sources, sources))]
    real_BS = torch.arange(sources) < torch.tensor([[sources], [sources // 2]]) if padded else None
    bound = mask.on(Layout(queries=queries, sources=sources))
    found, wanted = (
        kernel.attend(*inputs, bound, Explicit(fused), real_BS=real_BS) for kernel in (BlockLocal(), Reference())
    )
    close([found, *gradients(found, inputs)], [wanted, *gradients(wanted, inputs)])


@pytest.mark.parametrize("kernel", [BlockLocal(), Gather()], ids=repr)
def test_local_kernels_refuse_what_they_cannot_serve(kernel: Kernel) -> None:
    """Called past their refusal they say so, and do not answer wrongly."""
    x_BHNK = randn(0, 1, 1, 4, 2)
    with pytest.raises(ValueError, match="choose kernel = auto"):
        kernel.attend(x_BHNK, x_BHNK, x_BHNK, Full(), Explicit(True))


@pytest.mark.parametrize("mask", [Full(), Window(w=1), Window(w=1, coord="aligned")], ids=repr)
@pytest.mark.parametrize("shape", [(0, 4, 40), (2, 0, 40), (2, 4, 0)], ids=str)
def test_nothing_to_attend(mask: Mask, shape: tuple[int, int, int]) -> None:
    """An empty batch, no query or no source: zeros of the right shape."""
    batch, queries, sources = shape
    bound = mask.on(Layout(queries=queries, sources=sources))
    q_BHQK, k_BHSK = randn(0, batch, 2, queries, 3), randn(1, batch, 2, sources, 3)
    out_BHQK = Auto().attend(q_BHQK, k_BHSK, k_BHSK, bound, Explicit(True))
    assert out_BHQK.shape == q_BHQK.shape
    assert (out_BHQK == 0).all()


def test_half_precision_windows() -> None:
    """In bfloat16 the blocks are as near to float64 as fused attention over all pairs is."""
    exact = [randn(i, 2, 2, 200, 16) for i in range(3)]
    halves = [t.bfloat16() for t in exact]
    mask = Window(w=17).on(Layout(queries=200, sources=200))
    truth = Reference().attend(*exact, mask, Explicit(True))
    ours, fused = (kernel.attend(*halves, mask, Explicit(True)) for kernel in (BlockLocal(), SdpaMasked()))
    assert ours.dtype == torch.bfloat16
    assert (ours - truth).abs().max() <= 1.1 * (fused - truth).abs().max()
