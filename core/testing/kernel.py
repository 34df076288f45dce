"""What every kernel must do. B batch, H heads, Q query and S source tokens, K key width, V value width.

@pytest.mark.parametrize("kernel", [Sdpa(), Reference()], ids=repr)
class TestKernels(KernelLaws): ...
"""

from __future__ import annotations

import itertools

import attrs
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from core.kinds.kernel import Kernel, Request
from core.kinds.mask import Band, Banded, Form, Mask
from core.testing.draws import Drawable, close, coins, counted, drawn, gradients, law, randn, seeds
from core.testing.mask import Table


@attrs.frozen(eq=False)
class Lists(Mask):
    """A list of sources for each query of each sample, (B, Q, C), -1 for none."""

    index_BQC: Tensor

    def sees(self, q: Tensor, s: Tensor) -> Tensor:
        return (self.index_BQC[:, q] == s[..., None]).any(-1)

    @property
    def listed(self) -> Tensor:
        return self.index_BQC


@attrs.frozen(eq=False)
class Samples(Mask):
    """A rule that differs between samples: pairs in so many words, (B, Q, S)."""

    shown_BQS: Tensor

    def sees(self, q: Tensor, s: Tensor) -> Tensor:
        return self.shown_BQS[:, q, s]


class Explicit(nn.Module):
    """Softmax, which a kernel may fuse, or sigmoids over their sum, which it may not, written out."""

    fused: bool

    def __init__(self, fused: bool) -> None:
        super().__init__()
        self.fused = fused

    def forward(self, logits_BHQS: Tensor, visible: Tensor) -> Tensor:
        logits_BHQS = torch.where(visible, logits_BHQS, torch.finfo(logits_BHQS.dtype).min)
        shifted_BHQS = logits_BHQS - logits_BHQS.amax(-1, keepdim=True)
        positive = (shifted_BHQS.exp() if self.fused else logits_BHQS.sigmoid()) * visible
        total = positive.sum(-1, keepdim=True)
        return positive / torch.where(total == 0, 1.0, total)


FORMS: tuple[Form, ...] = ("full", "causal", "window", "listed", "predicate")
REQUESTS = [
    Request(fused=fused, form=form, padded=padded, bias=bias)
    for form, fused, padded, bias in itertools.product(FORMS, (True, False), (True, False), (True, False))
]


@attrs.frozen
class Problem:
    """One sum to compute."""

    q_BHQK: Tensor
    k_BHSK: Tensor
    v_BHSV: Tensor
    mask: Mask
    sparsifier: Explicit
    real_BS: Tensor | None
    bias: Tensor | None

    @property
    def visible_BHQS(self) -> Tensor:
        queries, sources = self.q_BHQK.shape[2], self.k_BHSK.shape[2]
        visible = self.mask.dense(queries, sources)
        visible = (visible if visible.ndim == 2 else visible[:, None]).expand(*self.q_BHQK.shape[:2], -1, -1)
        return visible if self.real_BS is None else visible & self.real_BS[:, None, None, :]

    def inputs(self, dtype: torch.dtype) -> list[Tensor]:
        """Queries, keys, values and, where there is one, the bias, as leaves."""
        every = [self.q_BHQK, self.k_BHSK, self.v_BHSV] + ([] if self.bias is None else [self.bias])
        return [tensor.to(dtype, copy=True).requires_grad_() for tensor in every]

    def by(self, kernel: Kernel, inputs: list[Tensor]) -> Tensor:
        """The kernel's answer to the problem with these tensors in place of its own."""
        q_BHQK, k_BHSK, v_BHSV, *rest = inputs
        bias = rest[0] if rest else None
        return kernel.attend(q_BHQK, k_BHSK, v_BHSV, self.mask, self.sparsifier, real_BS=self.real_BS, bias=bias)

    def by_hand(self, inputs: list[Tensor]) -> Tensor:
        """The answer in so many words."""
        q_BHQK, k_BHSK, v_BHSV, *rest = inputs
        logits_BHQS = (q_BHQK[:, :, :, None, :] * k_BHSK[:, :, None, :, :]).sum(-1) / q_BHQK.shape[-1] ** 0.5
        if rest:
            logits_BHQS = logits_BHQS + rest[0]
        weights_BHQS = self.sparsifier(logits_BHQS, self.visible_BHQS)
        return (weights_BHQS[..., None] * v_BHSV[:, :, None, :, :]).sum(3)


@st.composite
def masks(draw: st.DrawFn, form: Form, seed: int, shape: tuple[int, int, int], seen: float) -> Mask:
    """A mask of a form, for a batch, queries and sources; `seen` is the share of pairs where that can be chosen."""
    _, queries, sources = shape
    if form in ("full", "causal"):
        return Banded(rule=Band(causal=form == "causal"))
    if form == "listed":
        shuffled_BQS = torch.rand(shape, generator=torch.Generator().manual_seed(seed)).argsort(-1)
        some_BQC = shuffled_BQS[..., : draw(st.integers(0, sources))]
        return Lists(some_BQC.masked_fill(~coins(seed + 6, *some_BQC.shape, heads=seen), -1))
    table = (
        Table(coins(seed, queries, sources, heads=seen))
        if draw(st.booleans())
        else Samples(coins(seed, *shape, heads=seen))
    )
    if form == "predicate":
        return table
    width = st.integers(0, 5) | st.integers(0, max(queries, sources) + 1)
    anchors = draw(st.sampled_from([0, 1, 2, 5]))
    shift = draw(st.sampled_from([anchors, anchors, 0]) | st.integers(-2 * queries, 2 * sources))
    local = Banded(rule=Band(window=draw(width), causal=draw(st.booleans()), anchors=anchors, shift=shift))
    return draw(st.sampled_from([local, local, local & table]))


@st.composite
def problems(draw: st.DrawFn, kernel: Kernel) -> Problem:
    """A problem that the kernel says it can serve."""
    request = draw(st.sampled_from([r for r in REQUESTS if kernel.refuses(r) is None]))
    few, many = st.integers(1, 3), st.integers(1, 9) | st.sampled_from([33, 70, 150])
    batch, heads, queries, sources, key = draw(few), draw(few), draw(many), draw(many), draw(st.integers(1, 9))
    value = draw(st.sampled_from([key, key + 1]))
    seed = draw(seeds)
    bias_shape = draw(
        st.sampled_from([(batch, heads, queries, sources), (1, heads, queries, sources), (queries, sources)])
    )
    seen = draw(st.sampled_from([0.0, 0.5, 0.9]))
    mask = draw(masks(request.form, seed, (batch, queries, sources), seen))
    return Problem(
        randn(seed + 1, batch, heads, queries, key),
        randn(seed + 2, batch, heads, sources, key),
        randn(seed + 3, batch, heads, sources, value),
        mask,
        Explicit(request.fused),
        coins(seed + 4, batch, sources, heads=seen) if request.padded else None,
        randn(seed + 5, *bias_shape) if request.bias else None,
    )


class KernelLaws:
    """Laws of `core.kinds.kernel.Kernel`; parametrise a subclass over `kernel`, a plugin or a strategy of plugins."""

    @law
    @given(data=st.data())
    def test_refusals(self, kernel: Drawable[Kernel], data: st.DataObject) -> None:
        """A kernel serves something, and what it does not serve it refuses in words."""
        plugin = drawn(data, kernel)
        reasons = [plugin.refuses(request) for request in REQUESTS]
        assert None in reasons
        assert all(reason is None or len(reason.split()) > 2 for reason in reasons)

    @law
    @given(data=st.data(), dtype=st.sampled_from([torch.float64, torch.float32]))
    def test_reference(self, kernel: Drawable[Kernel], data: st.DataObject, dtype: torch.dtype) -> None:
        """Values and gradients are those of the sum written out; a row that sees nothing is exactly 0."""
        plugin = drawn(data, kernel)
        problem = data.draw(problems(plugin))
        slow = problem.inputs(torch.float64)
        truth = problem.by_hand(slow)
        fast = problem.inputs(dtype)
        out = problem.by(plugin, fast)
        assert out.dtype == dtype
        tolerance = 1e-9 if dtype == torch.float64 else 1e-4
        found, wanted = [out, *gradients(out, fast)], [truth, *gradients(truth, slow)]
        close([tensor.double() for tensor in found], wanted, tolerance)
        assert (out[~problem.visible_BHQS.any(-1)] == 0).all()

    @law
    @given(data=st.data(), queries=st.integers(1, 150), sources=st.integers(1, 150), width=st.integers(0, 9))
    def test_pairs(self, kernel: Drawable[Kernel], data: st.DataObject, queries: int, sources: int, width: int) -> None:
        """`pairs` is what a count of the products gives: each pair costs one of key width and one of value width."""
        plugin = drawn(data, kernel)
        request = data.draw(st.sampled_from([r for r in REQUESTS if plugin.refuses(r) is None and not r.bias]))
        bands = {"full": Band(), "causal": Band(causal=True), "predicate": Band(causal=True, shift=1)}
        mask: Mask = Banded(rule=bands.get(request.form, Band(window=width, anchors=1, shift=1)))
        if request.form == "listed":
            mask = Lists(torch.empty(1, queries, min(width, sources), dtype=torch.long, device="meta"))
        with torch.device("meta"), FlopCounterMode(display=False) as counter:
            q_BHQK, k_BHSK, v_BHSV = (torch.empty(2, 3, n, k) for n, k in ((queries, 4), (sources, 4), (sources, 4)))
            real_BS = torch.ones(2, sources, dtype=torch.bool) if request.padded else None
            plugin.attend(q_BHQK, k_BHSK, v_BHSV, mask, Explicit(request.fused), real_BS=real_BS)
        each = 2 * 3 * 2 * (4 + 4)
        counted("pairs", plugin.pairs(request, mask, queries, sources), counter.get_total_flops() // each)
        assert counter.get_total_flops() % each == 0

    @law
    @given(data=st.data())
    def test_hidden(self, kernel: Drawable[Kernel], data: st.DataObject) -> None:
        """A query's value and gradients do not depend on a source hidden from it.

        Planted are NaN where the source is padding, 1e30 where no query sees it, and 1e3 where another query does: a
        fused kernel recomputes that query's weights, which overflow when its logits are beyond all use.
        """
        plugin = drawn(data, kernel)
        problem = data.draw(problems(plugin))
        source = data.draw(st.integers(0, problem.k_BHSK.shape[2] - 1), label="source")
        blind_BHQ = ~problem.visible_BHQS[..., source]
        content_B = torch.where(blind_BHQ.all(dim=(1, 2)), 1e30, 1e3).double()
        if problem.real_BS is not None:
            content_B = torch.where(problem.real_BS[:, source], content_B, float("nan"))
        outcomes = []
        for planted in (False, True):
            inputs = problem.inputs(torch.float64)
            if planted:
                for tensor in inputs[1:3]:
                    tensor.data[:, :, source] = content_B[:, None, None]
            read = problem.by(plugin, inputs)[blind_BHQ]
            slopes = gradients(read, inputs)
            assert all((slope[:, :, source] == 0).all() for slope in slopes[1:3])
            outcomes.append([read.detach(), *slopes])
        close(outcomes[1], outcomes[0])
