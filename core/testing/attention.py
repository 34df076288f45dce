"""What every attention must do. B batch, Q query and S source tokens, D width.

@pytest.mark.parametrize("attention", [st.builds(Linear, heads=st.sampled_from([1, 2]), gate=gates)], ids=repr)
class TestLinear(AttentionLaws): ...
"""

from __future__ import annotations

import contextlib
from typing import Any, ClassVar

import attrs
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from core.kinds.anchor import Anchor
from core.kinds.attention import Attention
from core.kinds.mask import Layout, Mask
from core.kinds.position import Position
from core.testing.draws import (
    Drawable,
    close,
    coins,
    counted,
    drawn,
    gradients,
    law,
    parts,
    randn,
    refusals,
    same_after_loading,
    seeds,
    started,
)
from core.testing.mask import Table
from core.train.streams import Streams

NAN = float("nan")
few = settings(law, max_examples=6)


@attrs.frozen
class Read:
    """One call: a layer in float64, its queries, the sources of cross attention where there are any, and a layout."""

    plugin: Attention
    layer: nn.Module
    x_BQD: Tensor
    context_BSD: Tensor | None
    layout: Layout

    @property
    def ordered(self) -> bool:
        """Whether something tells sources apart by where they stand."""
        told = [part for part in parts(self.plugin) if isinstance(part, (Attention, Mask, Position))]
        return any(part.ordered for part in told)

    @property
    def indexed(self) -> bool:
        """Whether something tells sources apart by where they lie in the sequence."""
        told = [part for part in parts(self.plugin) if isinstance(part, (Mask, Position))]
        return any(part.indexed for part in told) or (isinstance(self.plugin, Attention) and self.plugin.ordered)

    @property
    def anchored(self) -> bool:
        """Whether extra keys are made of all sources, which shows them to every query whatever the mask."""
        return any(isinstance(part, Anchor) for part in parts(self.plugin))

    @property
    def sources_BSD(self) -> Tensor:
        return self.x_BQD if self.context_BSD is None else self.context_BSD

    def holding(self, sources_BSD: Tensor) -> Read:
        """The same call with other sources."""
        if self.context_BSD is None:
            return attrs.evolve(self, x_BQD=sources_BSD)
        return attrs.evolve(self, context_BSD=sources_BSD)

    def padded(self, extra: int) -> Read:
        """The same call with more sources, whose content and place are NaN."""
        batch, _, width = self.sources_BSD.shape
        longer = self.holding(torch.cat([self.sources_BSD, self.x_BQD.new_full((batch, extra, width), NAN)], dim=1))
        place = self.layout.place_BQP if self.context_BSD is None else self.layout.place_BSP
        assert place is not None
        place = torch.cat([place, place.new_full((batch, extra, place.shape[-1]), NAN)], dim=1)
        if self.context_BSD is None:
            return attrs.evolve(longer, layout=attrs.evolve(self.layout, place_BQP=place))
        return attrs.evolve(longer, layout=attrs.evolve(self.layout, place_BSP=place))

    def alone(self, b: int) -> Read:
        """The call of one batch element."""
        one, layout = slice(b, b + 1), self.layout
        assert layout.place_BQP is not None
        place_BSP = None if layout.place_BSP is None else layout.place_BSP[one]
        context_BSD = None if self.context_BSD is None else self.context_BSD[one]
        layout = attrs.evolve(layout, place_BQP=layout.place_BQP[one], place_BSP=place_BSP)
        return attrs.evolve(self, x_BQD=self.x_BQD[one], context_BSD=context_BSD, layout=layout)

    def outcome(self, keep_BQ: Tensor | None = None, **given: Any) -> list[Tensor]:
        """What the kept queries read, and the gradients of that: sources, queries where they differ, parameters."""
        sources_BSD = self.sources_BSD.clone().requires_grad_()
        tokens = [sources_BSD]
        if self.context_BSD is None:
            out_BQD = self.layer(sources_BSD, layout=self.layout, **given)
        else:
            tokens.append(self.x_BQD.clone().requires_grad_())
            out_BQD = self.layer(tokens[1], context_BSD=sources_BSD, layout=self.layout, **given)
        kept = out_BQD if keep_BQ is None else out_BQD[keep_BQ]
        return [kept.detach(), *gradients(kept, [*tokens, *self.layer.parameters()])]


class AttentionLaws:
    """Laws of `core.kinds.attention.Attention`; parametrise a subclass over `attention`, a plugin or a strategy.

    Configurations of a strategy that refuse padding or masks, as a kernel chosen by name may, are drawn again.
    """

    widths: ClassVar[tuple[int, ...]] = (8, 6, 10, 12, 14, 18, 16, 32, 64)
    """the first that a plugin takes is that of its tokens"""

    @law
    @given(data=st.data(), seed=seeds, cross=st.booleans())
    def test_shape_and_dtype(self, attention: Drawable[Attention], data: st.DataObject, seed: int, cross: bool) -> None:
        """The output has the shape and dtype of the queries, also under autocast."""
        read = self.read(attention, data, seed, cross)
        for dtype in (torch.float64, torch.float32, torch.bfloat16):
            x_BQD, layer = read.x_BQD.to(dtype), read.layer.to(dtype)
            context_BSD = None if read.context_BSD is None else read.context_BSD.to(dtype)
            for half in (False, dtype == torch.float32):
                with torch.autocast("cpu", torch.bfloat16, enabled=half):
                    out_BQD = layer(x_BQD, context_BSD=context_BSD, layout=read.layout)
                assert out_BQD.shape == x_BQD.shape
                assert out_BQD.dtype == dtype
                assert torch.isfinite(out_BQD).all()

    @law
    @given(data=st.data(), seed=seeds, cross=st.booleans())
    def test_padding_content(self, attention: Drawable[Attention], data: st.DataObject, seed: int, cross: bool) -> None:
        """Padding changes neither values nor gradients, whatever it holds, and its own gradient is 0."""
        read = self.read(attention, data, seed, cross)
        real_BS = coins(seed + 3, *read.sources_BSD.shape[:2])
        keep_BQ = None if cross else real_BS
        clean = read.outcome(keep_BQ, real_BS=real_BS)
        dirty = read.holding(read.sources_BSD.masked_fill(~real_BS[..., None], NAN)).outcome(keep_BQ, real_BS=real_BS)
        close(dirty, clean)
        assert (dirty[1][~real_BS] == 0).all()

    @law
    @given(data=st.data(), seed=seeds, cross=st.booleans(), extra=st.integers(0, 3))
    def test_padding_appended(
        self, attention: Drawable[Attention], data: st.DataObject, seed: int, cross: bool, extra: int
    ) -> None:
        """Appended padding changes nothing, and where there is none, saying so changes nothing either."""
        read = self.read(attention, data, seed, cross)
        batch, sources, _ = read.sources_BSD.shape
        real_BS = (torch.arange(sources + extra) < sources).expand(batch, -1)
        keep_BQ = None if cross else real_BS
        every_BQ = None if cross else real_BS[:, :sources]
        padded, plain = read.padded(extra).outcome(keep_BQ, real_BS=real_BS), read.outcome(every_BQ)
        padded[1] = padded[1][:, :sources]
        close(padded, plain)

    @law
    @given(data=st.data(), seed=seeds, cross=st.booleans())
    def test_mask_content(self, attention: Drawable[Attention], data: st.DataObject, seed: int, cross: bool) -> None:
        """A source hidden from a query by the mask changes neither its value nor its gradients.

        Planted are 1e30 where the mask hides the source from all, and 1e3 where another query sees it. Not so where
        anchors stand for all sources.
        """
        read = self.read(attention, data, seed, cross)
        if not read.plugin.pairs or read.anchored:
            return
        batch, sources, _ = read.sources_BSD.shape
        queries = read.x_BQD.shape[1]
        source = data.draw(st.integers(0, sources - 1), label="source")
        shown_QS = coins(seed + 3, queries, sources)
        if data.draw(st.booleans(), label="hidden from all"):
            shown_QS[:, source] = False
        blind_Q = ~shown_QS[:, source]
        planted_BSD = read.sources_BSD.clone()
        planted_BSD[:, source] = 1e30 if blind_Q.all() else 1e3
        if not cross:
            blind_Q = blind_Q & (torch.arange(queries) != source)
        keep_BQ = blind_Q.expand(batch, -1)
        clean = read.outcome(keep_BQ, mask=Table(shown_QS))
        dirty = read.holding(planted_BSD).outcome(keep_BQ, mask=Table(shown_QS))
        close(dirty, clean)
        assert (dirty[1][:, source] == 0).all()

    @law
    @given(data=st.data(), seed=seeds)
    def test_mask_and_padding_agree(self, attention: Drawable[Attention], data: st.DataObject, seed: int) -> None:
        """Hiding a source from all by the mask and calling it padding are the same.

        Not so where a rule measures how many sources are real, or where anchors stand for all of them.
        """
        read = self.read(attention, data, seed, cross=True)
        if not read.plugin.pairs or read.anchored or read.ordered:
            return
        sources = read.sources_BSD.shape[1]
        real_S = coins(seed + 3, sources)
        by_mask = read.outcome(mask=Table(real_S.expand(read.x_BQD.shape[1], -1)))
        close(by_mask, read.outcome(real_BS=real_S.expand(len(read.x_BQD), -1)))

    @law
    @given(data=st.data(), seed=seeds, cross=st.booleans())
    def test_blind(self, attention: Drawable[Attention], data: st.DataObject, seed: int, cross: bool) -> None:
        """Queries that see nothing attend to nothing: what comes out is constant, and no token gets a gradient.

        In cross attention it is one constant; two sides that read each other may have one each.
        """
        read = self.read(attention, data, seed, cross)
        nothing_BS = torch.zeros(read.sources_BSD.shape[:2], dtype=torch.bool)
        out_BQD, *slopes = read.outcome(real_BS=nothing_BS)
        close([read.holding(read.sources_BSD + 1.0).outcome(real_BS=nothing_BS)[0]], [out_BQD])
        if cross:
            close([out_BQD], [out_BQD[:1, :1].expand_as(out_BQD)])
        assert all((slope == 0).all() for slope in slopes[: 2 if cross else 1])
        assert all(torch.isfinite(slope).all() for slope in slopes)

    @law
    @given(data=st.data(), seed=seeds)
    def test_sources_are_a_set(self, attention: Drawable[Attention], data: st.DataObject, seed: int) -> None:
        """Permuting sources and their places leaves output and gradients as they are, unless their order is asked."""
        read = self.read(attention, data, seed, cross=True)
        if read.indexed:
            return
        order = torch.tensor(data.draw(st.permutations(range(read.sources_BSD.shape[1]))))
        moved = read.holding(read.sources_BSD[:, order])
        assert read.layout.place_BSP is not None
        layout = attrs.evolve(read.layout, place_BSP=read.layout.place_BSP[:, order])
        shuffled = attrs.evolve(moved, layout=layout).outcome()
        shuffled[1] = shuffled[1][:, order.argsort()]
        close(shuffled, read.outcome())

    @law
    @given(data=st.data(), seed=seeds, cross=st.booleans())
    def test_batch(self, attention: Drawable[Attention], data: st.DataObject, seed: int, cross: bool) -> None:
        """A batch element is read as if it were alone."""
        read = self.read(attention, data, seed, cross)
        whole_BQD = read.outcome()[0]
        for b in range(len(read.x_BQD)):
            close([read.alone(b).outcome()[0]], [whole_BQD[b : b + 1]])

    @law
    @given(data=st.data(), seed=seeds)
    def test_initial_values(self, attention: Drawable[Attention], data: st.DataObject, seed: int) -> None:
        """What two arms draw starts bit-equal where name and shape are the same, whatever else they own.

        Constants are a plugin's own choice (the bias of a gate) and may differ, and so may the scale of what is drawn.
        """
        width, first = self.built(attention, drawn(data, attention), seed, self.widths)
        arms = [first, self.built(attention, drawn(data, attention), seed, (width,))[1]]
        one, other = (dict(arm.named_parameters()) for arm in arms)
        shared = [
            name
            for name, values in one.items()
            if name in other
            and values.shape == other[name].shape
            and all(len(values_.unique()) > 1 for values_ in (values, other[name]))
        ]
        assert shared
        for name in shared:
            scale = other[name].norm() / one[name].norm()
            assert torch.equal(one[name], other[name]) or (scale - 1).abs() > 1e-3
            close([scale * one[name]], [other[name]], 1e-6)
        again = dict(started(arms[0], seed + 1).named_parameters())
        assert any(not torch.equal(other[name], again[name]) for name in shared)

    @law
    @given(data=st.data(), seed=seeds, cross=st.booleans())
    def test_randomness(self, attention: Drawable[Attention], data: st.DataObject, seed: int, cross: bool) -> None:
        """In training a step's numbers come from the module's own streams, and the global state stays untouched."""
        read = self.read(attention, data, seed, cross)
        read.layer.train()
        before, outcomes = torch.get_rng_state(), []
        for _ in range(2):
            Streams(seed).reseed(read.layer, step=3)
            outcomes.append(read.outcome())
        assert torch.equal(torch.get_rng_state(), before)
        close(outcomes[1], outcomes[0], tolerance=0.0)

    @few
    @given(data=st.data(), seed=seeds, cross=st.booleans())
    def test_gradients(self, attention: Drawable[Attention], data: st.DataObject, seed: int, cross: bool) -> None:
        """Gradients of tokens agree with finite differences."""
        read = self.read(attention, data, seed, cross)
        tokens = [read.x_BQD] if read.context_BSD is None else [read.x_BQD, read.context_BSD]

        def run(x_BQD: Tensor, context_BSD: Tensor | None = None) -> Tensor:
            return read.layer(1.0 * x_BQD, context_BSD=context_BSD, layout=read.layout)

        assert torch.autograd.gradcheck(run, [tensor.requires_grad_() for tensor in tokens], fast_mode=True)

    @law
    @given(data=st.data(), seed=seeds, cross=st.booleans())
    def test_state(self, attention: Drawable[Attention], data: st.DataObject, seed: int, cross: bool) -> None:
        """A layer that loads the state of another is that layer."""
        read = self.read(attention, data, seed, cross)
        fresh = started(read.plugin.build(read.x_BQD.shape[-1]), seed + 1)
        same_after_loading(read.layer, fresh, lambda layer: attrs.evolve(read, layer=layer).outcome()[:1])

    @law
    @given(data=st.data(), seed=seeds, padded=st.booleans())
    def test_meta(self, attention: Drawable[Attention], data: st.DataObject, seed: int, padded: bool) -> None:
        """A layer builds and runs without memory, in training."""
        read = self.read(attention, data, seed, cross=True)
        layout = read.layout
        assert layout.place_BQP is not None
        assert layout.place_BSP is not None
        with torch.device("meta"):
            told = attrs.evolve(
                layout, place_BQP=torch.empty(layout.place_BQP.shape), place_BSP=torch.empty(layout.place_BSP.shape)
            )
            x_BQD, context_BSD = torch.empty(read.x_BQD.shape), torch.empty(read.sources_BSD.shape)
            real_BS = torch.empty(context_BSD.shape[:2], dtype=torch.bool) if padded else None
            layer = read.plugin.build(x_BQD.shape[-1])
            out_BQD = layer(x_BQD, context_BSD=context_BSD, real_BS=real_BS, layout=told)
        assert out_BQD.is_meta
        assert out_BQD.shape == x_BQD.shape

    def built(
        self, attention: Drawable[Attention], plugin: Attention, seed: int, widths: tuple[int, ...]
    ) -> tuple[int, nn.Module]:
        """The first width that a drawn plugin takes, and its layer."""
        for width in widths[:-1]:
            with contextlib.suppress(ValueError):
                return width, started(plugin.build(width), seed)
        with refusals(attention):
            return widths[-1], started(plugin.build(widths[-1]), seed)

    @law
    @given(data=st.data(), queries=st.integers(1, 80), sources=st.none() | st.integers(1, 80))
    def test_closed_forms(
        self, attention: Drawable[Attention], data: st.DataObject, queries: int, sources: int | None
    ) -> None:
        """`params` and `flops` are what counters find in a pass without memory; each further set costs the same.

        A further set may cost less than the first: what is done to weights is done once a pass.
        """
        read = self.read(attention, data, 0, cross=True)
        plugin, width = read.plugin, read.x_BQD.shape[-1]
        totals = []
        for sets in (1, 2, 3):
            with torch.device("meta"):
                layer = plugin.build(width).eval()
                context_BSD = None if sources is None else torch.empty(sets, sources, width)
                layout = Layout.typical(queries, sources)
                places = [None if p is None else p.expand(sets, -1, -1) for p in (layout.place_BQP, layout.place_BSP)]
                layout = attrs.evolve(layout, place_BQP=places[0], place_BSP=places[1])
                with refusals(attention), FlopCounterMode(display=False) as counter:
                    layer(
                        torch.empty(sets, queries, width),
                        context_BSD=context_BSD,
                        layout=layout,
                    )
            counted("params", plugin.params(width), sum(p.numel() for p in layer.parameters()))
            totals.append(counter.get_total_flops())
        counted("flops", plugin.flops(width, queries, sources), totals[0])
        assert 0 < totals[1] - totals[0] == totals[2] - totals[1] <= totals[0], f"1, 2, 3 sets cost {totals}"

    def read(self, attention: Drawable[Attention], data: st.DataObject, seed: int, cross: bool) -> Read:
        """A layer of a drawn plugin with drawn numbers of sets and tokens, which all have coordinates."""
        batch, queries = data.draw(st.integers(1, 3), label="sets"), data.draw(st.integers(1, 7), label="queries")
        plugin = drawn(data, attention)
        width, layer = self.built(attention, plugin, seed, self.widths)
        axes = next((n for n in (p.space() for p in parts(plugin) if isinstance(p, Position)) if n is not None), 2)
        layout = Layout(place_BQP=randn(seed + 4, batch, queries, axes))
        context_BSD = None
        if cross:
            sources = data.draw(st.integers(1, 7), label="sources")
            context_BSD = randn(seed + 1, batch, sources, width)
            layout = attrs.evolve(layout, place_BSP=randn(seed + 5, batch, sources, axes))
        else:
            layout = attrs.evolve(layout, first=data.draw(st.integers(0, queries), label="tokens of a first side"))
        read = Read(plugin, layer, randn(seed + 2, batch, queries, width), context_BSD, layout)
        with refusals(attention), torch.no_grad():
            shown_QS = torch.ones(queries, read.sources_BSD.shape[1], dtype=torch.bool)
            mask = Table(shown_QS) if plugin.pairs else None
            real_BS = torch.ones(read.sources_BSD.shape[:2], dtype=torch.bool)
            layer(read.x_BQD, mask, context_BSD=context_BSD, real_BS=real_BS, layout=layout)
        return read
