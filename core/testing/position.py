"""What every position must do. B batch, N tokens, D width, H heads, K head width, P axes of space.

@pytest.mark.parametrize("position", [st.builds(Rope, base=st.floats(2, 1e5))], ids=["rope"])
class TestPositions(PositionLaws): ...
"""

from __future__ import annotations

from typing import ClassVar, cast

import attrs
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from core.kinds.mask import Layout
from core.kinds.position import Places, Position, PositionLayer, sides
from core.testing.draws import Drawable, close, counted, drawn, law, randn, same_after_loading, seeds, started

counts = st.integers(1, 9)


@attrs.frozen
class Told:
    """A module and the layout of one call of self attention, with ragged samples."""

    module: nn.Module
    layout: Layout
    x_BND: Tensor
    x_BHNK: Tensor

    def outcome(self, layout: Layout | None = None) -> list[Tensor]:
        """Tokens and heads of the real tokens, sample by sample."""
        return self.on(layout or self.layout, self.x_BND, self.x_BHNK)

    def on(self, layout: Layout, x_BND: Tensor, x_BHNK: Tensor) -> list[Tensor]:
        """The same for other tokens."""
        layer = cast(PositionLayer, self.module)
        places, _ = sides(layout)
        tokens_BND, heads_BHNK = layer.tokens(x_BND, places), layer.heads(x_BHNK, places)
        assert tokens_BND.shape == x_BND.shape
        assert heads_BHNK.shape == x_BHNK.shape
        real_BN = layout.real_BQ if layout.real_BQ is not None else torch.ones(x_BND.shape[:2], dtype=torch.bool)
        return [out[b][..., real_BN[b], :] for b in range(len(x_BND)) for out in (tokens_BND, heads_BHNK)]


class PositionLaws:
    """Laws of `core.kinds.position.Position`; parametrise a subclass over `position`, a plugin or a strategy."""

    heads: ClassVar[int] = 2
    head_width: ClassVar[int] = 4
    axes: ClassVar[int] = 2
    """axes of the coordinates that are drawn, where the position does not ask for another number"""

    @law
    @given(data=st.data(), seed=seeds, tokens=counts, extra=counts)
    def test_padding(
        self, position: Drawable[Position], data: st.DataObject, seed: int, tokens: int, extra: int
    ) -> None:
        """More padding, whatever its place says, NaN included, changes nothing of the real tokens."""
        told = self.told(position, data, seed, tokens)
        layout = told.layout
        wide = attrs.evolve(
            layout,
            queries=tokens + extra,
            sources=tokens + extra,
            real_BQ=_wider(layout.real_BQ, extra, False),
            real_BS=_wider(layout.real_BS, extra, False),
            place_BQP=_wider(layout.place_BQP, extra, float("nan")),
        )
        padded = told.on(wide, _wider(told.x_BND, extra, 3.0), _wider(told.x_BHNK.mT, extra, 3.0, last=True).mT)
        close(padded, told.outcome())

    @law
    @given(data=st.data(), seed=seeds, tokens=counts)
    def test_samples(self, position: Drawable[Position], data: st.DataObject, seed: int, tokens: int) -> None:
        """A sample is treated alone as among others."""
        told = self.told(position, data, seed, tokens)
        whole = told.outcome()
        alone = []
        for b in range(len(told.x_BND)):
            one = slice(b, b + 1)
            layout = attrs.evolve(
                told.layout,
                real_BQ=_part(told.layout.real_BQ, one),
                real_BS=_part(told.layout.real_BS, one),
                place_BQP=_part(told.layout.place_BQP, one),
            )
            alone += told.on(layout, told.x_BND[one], told.x_BHNK[one])
        close(alone, whole)

    @law
    @given(data=st.data(), seed=seeds, tokens=counts, earlier=st.integers(1, 30))
    def test_memory(
        self, position: Drawable[Position], data: st.DataObject, seed: int, tokens: int, earlier: int
    ) -> None:
        """Nothing is remembered: after other calls, longer ones too, it does what it does unused."""
        plugin = drawn(data, position)
        wanted = self.told(plugin, data, seed, tokens).outcome()
        told, other = self.told(plugin, data, seed, tokens), self.told(plugin, data, seed + 1, earlier)
        told.on(other.layout, other.x_BND, other.x_BHNK)
        close(told.outcome(), wanted, tolerance=0.0)

    @law
    @given(data=st.data(), seed=seeds, tokens=counts)
    def test_state(self, position: Drawable[Position], data: st.DataObject, seed: int, tokens: int) -> None:
        """A position that loads the state of another is that position."""
        plugin = drawn(data, position)
        told = self.told(plugin, data, seed, tokens)
        fresh = started(plugin.build(self.heads * self.head_width, self.heads, self.head_width), seed + 1)
        same_after_loading(told.module, fresh, lambda module: attrs.evolve(told, module=module).outcome())

    @law
    @given(data=st.data(), seed=seeds, tokens=counts)
    def test_sides(self, position: Drawable[Position], data: st.DataObject, seed: int, tokens: int) -> None:
        """Queries and sources that stand at the same places are treated alike."""
        told = self.told(position, data, seed, tokens)
        apart = attrs.evolve(told.layout, apart=True, place_BSP=told.layout.place_BQP)
        layer = cast(PositionLayer, told.module)
        queries, sources = sides(apart)
        close([layer.tokens(told.x_BND, sources)], [layer.tokens(told.x_BND, queries)])
        close([layer.heads(told.x_BHNK, sources)], [layer.heads(told.x_BHNK, queries)])

    @law
    @given(data=st.data(), seed=seeds, tokens=counts)
    def test_dtypes(self, position: Drawable[Position], data: st.DataObject, seed: int, tokens: int) -> None:
        """The tokens' dtype is kept, and half precision tokens are placed as wide ones are."""
        told = self.told(position, data, seed, tokens)
        places, _ = sides(attrs.evolve(told.layout, real_BQ=None, real_BS=None))
        layer = cast(PositionLayer, told.module.float())
        wanted = layer.tokens(told.x_BND.float(), places), layer.heads(told.x_BHNK.float(), places)
        found = layer.tokens(told.x_BND.bfloat16(), places), layer.heads(told.x_BHNK.bfloat16(), places)
        assert all(out.dtype == torch.bfloat16 for out in found)
        close([out.float() for out in found], [out.detach() for out in wanted], 0.05)

    @law
    @given(data=st.data())
    def test_meta(self, position: Drawable[Position], data: st.DataObject) -> None:
        """It is built and runs on the meta device; `params` and `flops` are what is counted there."""
        plugin = drawn(data, position)
        sizes = self.heads * self.head_width, self.heads, self.head_width
        with torch.device("meta"), FlopCounterMode(display=False) as counter:
            module = plugin.build(*sizes)
            layer = cast(PositionLayer, module)
            x_BND, x_BHNK = torch.empty(2, 5, 8), torch.empty(2, 2, 5, 4)
            places = Places(count=5, place_BNP=torch.empty(2, 5, plugin.space() or self.axes), longest=5)
            assert layer.tokens(x_BND, places).shape == x_BND.shape
            assert layer.heads(x_BHNK, places).shape == x_BHNK.shape
        counted("params", plugin.params(*sizes), sum(p.numel() for p in module.parameters()))
        counted("flops", plugin.flops(*sizes, 5), counter.get_total_flops() // 2)

    def told(self, position: Drawable[Position], data: st.DataObject, seed: int, tokens: int) -> Told:
        """A module with weights that are not at their start, and ragged samples with coordinates."""
        width, batch = self.heads * self.head_width, 3
        plugin = drawn(data, position)
        module = started(plugin.build(width, self.heads, self.head_width), seed)
        for i, parameter in enumerate(module.parameters()):
            parameter.data += 0.3 * randn(seed + i, *parameter.shape)
        lengths = torch.randint(1, tokens + 1, (batch, 1), generator=torch.Generator().manual_seed(seed))
        real_BN = torch.arange(tokens) < lengths
        layout = Layout(
            queries=tokens,
            sources=tokens,
            apart=False,
            real_BQ=real_BN,
            real_BS=real_BN,
            place_BQP=3 * randn(seed + 7, batch, tokens, plugin.space() or self.axes),
        )
        x_BND = randn(seed + 8, batch, tokens, width)
        return Told(module, layout, x_BND, x_BND.unflatten(-1, (self.heads, -1)).transpose(1, 2))


def _wider(tensor: Tensor | None, extra: int, filling: float | bool, last: bool = False) -> Tensor:
    """A tensor with more tokens: along axis 1, or the last one."""
    assert tensor is not None
    shape = list(tensor.shape)
    shape[-1 if last else 1] = extra
    return torch.cat([tensor, torch.full(shape, filling, dtype=tensor.dtype)], dim=-1 if last else 1)


def _part(tensor: Tensor | None, samples: slice) -> Tensor | None:
    return None if tensor is None else tensor[samples]
