"""What every anchor must do. B batch, S source tokens, A anchors, D width.

@pytest.mark.parametrize("anchor", [st.builds(AttentionAnchors, count=st.integers(1, 5))], ids=repr)
class TestAnchors(AnchorLaws): ...
"""

from __future__ import annotations

import attrs
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from core.kinds.anchor import Anchor
from core.nn.auxiliary import listen
from core.testing.draws import Drawable, close, coins, counted, drawn, gradients, law, randn, seeds, started

WILD = (0.0, 1e30, -1e30, torch.inf, torch.nan)
"""what padding may hold"""


@attrs.frozen
class Case:
    """An anchor's module, sources, and which of them are real."""

    module: nn.Module
    context_BSD: Tensor
    real_BS: Tensor


class AnchorLaws:
    """Laws of `core.kinds.anchor.Anchor`; parametrise a subclass over `anchor`, a plugin or a strategy of plugins."""

    @law
    @given(data=st.data(), seed=seeds, sources=st.integers(0, 7))
    def test_shape_and_dtype(self, anchor: Drawable[Anchor], data: st.DataObject, seed: int, sources: int) -> None:
        """A finite tokens of the sources' width and dtype, for any number of sources, under autocast too."""
        for dtype in (torch.float64, torch.float32, torch.bfloat16):
            case = _case(anchor, data, seed, sources, dtype)
            for autocast in (False, dtype == torch.float32):
                with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                    found = case.module(case.context_BSD)
                assert found.shape == (len(case.context_BSD), case.module.count, case.context_BSD.shape[-1])
                assert found.dtype == dtype
                assert torch.isfinite(found).all()

    @law
    @given(data=st.data(), seed=seeds)
    def test_half_precision(self, anchor: Drawable[Anchor], data: st.DataObject, seed: int) -> None:
        """Sources in bfloat16 give the anchors of those sources, up to the rounding of parameters and result."""
        case = _case(anchor, data, seed, 5, torch.float32)
        case.module.bfloat16()
        half_BSD = case.context_BSD.bfloat16()
        found = case.module(half_BSD, case.real_BS).float()
        torch.testing.assert_close(found, case.module.float()(half_BSD.float(), case.real_BS), rtol=0.01, atol=0.01)

    @law
    @given(data=st.data(), seed=seeds, sources=st.integers(1, 6), content=st.sampled_from(WILD))
    def test_padding(
        self, anchor: Drawable[Anchor], data: st.DataObject, seed: int, sources: int, content: float
    ) -> None:
        """Anchors, gradients and losses are those of the real sources alone, whatever padding holds."""
        case = _case(anchor, data, seed, sources)
        parameters = list(case.module.parameters())
        planted = torch.where(case.real_BS[..., None], case.context_BSD, content).requires_grad_()
        with listen() as told:
            found = case.module(planted, case.real_BS)
        slopes = gradients(found, [planted, *parameters])
        assert torch.isfinite(slopes[0]).all()
        assert (slopes[0][~case.real_BS] == 0).all()
        if case.real_BS.all(1).any():
            close([case.module(case.context_BSD)[case.real_BS.all(1)]], [found[case.real_BS.all(1)]])
        alone: list[Tensor] = []
        losses: list[Tensor] = []
        for x_SD, real_S in zip(case.context_BSD, case.real_BS, strict=True):
            with listen() as heard:
                alone.append(case.module(x_SD[None, real_S]) if real_S.any() else torch.zeros_like(found[:1]))
            losses += heard.values()
        close([found], [torch.cat(alone)])
        if losses:
            close([*told.values()], [torch.stack(losses).mean()])
        written = gradients(torch.cat(alone), parameters)
        close(slopes[1:], written)

    @law
    @given(data=st.data(), seed=seeds, sources=st.integers(1, 6))
    def test_nothing_real(self, anchor: Drawable[Anchor], data: st.DataObject, seed: int, sources: int) -> None:
        """A set without real sources has zeros for anchors, tells finite losses, and gives no gradient."""
        case = _case(anchor, data, seed, sources)
        context = torch.full_like(case.context_BSD, torch.nan).requires_grad_()
        with listen() as told:
            found = case.module(context, torch.zeros_like(case.real_BS))
        assert (found == 0).all()
        assert all(torch.isfinite(loss) for loss in told.values())
        slopes = gradients(found + sum(told.values()), [context, *case.module.parameters()])
        assert all((slope == 0).all() for slope in slopes)

    @law
    @given(data=st.data(), seed=seeds, sources=st.integers(1, 6))
    def test_order(self, anchor: Drawable[Anchor], data: st.DataObject, seed: int, sources: int) -> None:
        """Permuting the sources changes nothing."""
        case = _case(anchor, data, seed, sources)
        order = torch.randperm(sources, generator=torch.Generator().manual_seed(seed))
        found = case.module(case.context_BSD[:, order], case.real_BS[:, order])
        close([found], [case.module(case.context_BSD, case.real_BS)])

    @law
    @given(data=st.data(), seed=seeds, sources=st.integers(1, 6))
    def test_gradients(self, anchor: Drawable[Anchor], data: st.DataObject, seed: int, sources: int) -> None:
        """The gradient reaches every real source, and agrees with finite differences."""
        case = _case(anchor, data, seed, sources)
        context = case.context_BSD.requires_grad_()
        found = case.module(context, case.real_BS)
        (slope,) = gradients(found, [context])
        assert (slope != 0).any(-1)[case.real_BS].all()
        assert torch.autograd.gradcheck(lambda x: case.module(x * 1.0, case.real_BS), (context,))

    @law
    @given(data=st.data(), seed=seeds)
    def test_large_sources(self, anchor: Drawable[Anchor], data: st.DataObject, seed: int) -> None:
        """Anchors of finite sources are finite, however large the sources are."""
        case = _case(anchor, data, seed, 4, torch.float32)
        assert torch.isfinite(case.module(case.context_BSD * 1e30)).all()

    @law
    @given(data=st.data(), seed=seeds)
    def test_state(self, anchor: Drawable[Anchor], data: st.DataObject, seed: int) -> None:
        """An anchor that loads the state of another is that anchor."""
        plugin = drawn(data, anchor)
        case = _case(plugin, data, seed, 4)
        fresh = plugin.build(case.context_BSD.shape[-1]).double()
        fresh.load_state_dict(case.module.state_dict())
        assert torch.equal(fresh(case.context_BSD), case.module(case.context_BSD))

    @law
    @given(data=st.data())
    def test_meta(self, anchor: Drawable[Anchor], data: st.DataObject) -> None:
        """An anchor builds and runs without memory, and tells its losses; `params` and `flops` are what is counted."""
        plugin = drawn(data, anchor)
        with torch.device("meta"), listen():
            module = plugin.build(6).eval()
            with FlopCounterMode(display=False) as counter:
                found = module(torch.empty(2, 5, 6), torch.ones(2, 5, dtype=torch.bool))
        counted("params", plugin.params(6), sum(p.numel() for p in module.parameters()))
        counted("flops", plugin.flops(6, 5), counter.get_total_flops() // 2)
        assert found.is_meta
        assert found.shape == (2, module.count, 6)


def _case(
    anchor: Drawable[Anchor], data: st.DataObject, seed: int, sources: int, dtype: torch.dtype = torch.float64
) -> Case:
    """Widths from 3 on: a norm over one channel says nothing, over two only which is larger."""
    batch, width = data.draw(st.integers(1, 3), label="sets"), data.draw(st.integers(3, 6), label="width")
    module = started(drawn(data, anchor).build(width), seed, dtype)
    return Case(module, randn(seed, batch, sources, width, dtype=dtype), coins(seed + 1, batch, sources))
