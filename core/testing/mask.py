"""What every mask must do. Q query and S source tokens.

@pytest.mark.parametrize("mask", [Full(), st.builds(Window, reach=st.integers(0, 9))], ids=repr)
class TestMasks(MaskLaws): ...
"""

from __future__ import annotations

import attrs
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from core.kinds.mask import Band, Banded, Layout, Mask
from core.testing.draws import Drawable, coins, counted, drawn, law, randn, seeds

sizes = st.integers(1, 12)


@attrs.frozen(eq=False)
class Table(Mask):
    """Pairs in so many words: a bool tensor (Q, S). The mask that kernels and attentions are tried with."""

    shown_QS: Tensor

    def sees(self, q: Tensor, s: Tensor) -> Tensor:
        return self.shown_QS[q, s]


@st.composite
def layouts(draw: st.DrawFn, *, apart: bool | None = None, anchors: int | None = None) -> Layout:
    """What data may say of some tokens: every fact is there, whether a rule asks for it or not."""
    queries, plain, batch = draw(sizes), draw(sizes | st.just(100)), draw(st.integers(1, 3))
    apart = draw(st.booleans()) if apart is None else apart
    anchors = draw(st.sampled_from([0, 0, 2])) if anchors is None else anchors
    tokens = plain if apart else queries
    seed = draw(seeds)
    real_BS = (
        (torch.arange(tokens) < torch.tensor(_lengths(draw, batch, tokens))[:, None]) if draw(st.booleans()) else None
    )
    real_BQ = real_BS
    if apart:
        real_BQ = (
            (torch.arange(queries) < torch.tensor(_lengths(draw, batch, queries))[:, None])
            if draw(st.booleans())
            else None
        )
    front_BA = torch.ones(batch, anchors, dtype=torch.bool)
    listed_BQk = torch.randint(-1, tokens, (batch, queries, draw(st.integers(0, tokens))), generator=_generator(seed))
    given = draw(st.booleans())
    return Layout(
        queries=queries,
        sources=tokens + anchors,
        apart=apart,
        anchors=anchors,
        real_BQ=real_BQ,
        real_BS=None if real_BS is None else torch.cat([front_BA, real_BS], dim=1),
        first=draw(st.integers(0, queries) | st.just(torch.tensor(_lengths(draw, batch, queries)))),
        queries_first=draw(st.booleans()),
        nearest_BQk=listed_BQk if given else None,
        place_BQP=randn(seed + 1, batch, queries, 2),
        place_BSP=randn(seed + 2, batch, tokens, 2) if apart else None,
        chance=draw(st.sampled_from([None, lambda: 0.0, lambda: 1.0 - 2**-24])),
    )


def _lengths(draw: st.DrawFn, batch: int, tokens: int) -> list[int]:
    return draw(st.lists(st.integers(0, tokens), min_size=batch, max_size=batch))


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def shown(rule: Mask, layout: Layout) -> Tensor:
    """What a rule shows, (Q, S), or (B, Q, S) where samples differ."""
    return rule.on(layout).dense(layout.queries, layout.sources)


def same(one: Tensor, other: Tensor) -> bool:
    """Whether two rules show the same; one that differs between samples may do so in vain."""
    return torch.equal(*torch.broadcast_tensors(one, other))


def within_band(band: Band, queries: int, sources: int) -> Tensor:
    """A band in so many words, (Q, S)."""
    rows = [
        [
            s < band.anchors
            or (
                (band.window is None or -band.window <= s - band.shift - q <= band.window)
                and (not band.causal or s - band.shift <= q)
            )
            for s in range(sources)
        ]
        for q in range(queries)
    ]
    return torch.tensor(rows)


def _anchors(data: st.DataObject, *plugins: Mask) -> int:
    """A number of extra keys in front that all of some masks allow."""
    own = {n for n in (plugin.own_anchors for plugin in plugins) if n is not None}
    return data.draw(st.sampled_from([0, 0, 2] if not own else [0, *own] if len(own) == 1 else [0]))


class MaskLaws:
    """Laws of `core.kinds.mask.Mask`; parametrise a subclass over `mask`, a plugin or a strategy of plugins."""

    @law
    @given(data=st.data(), layout=layouts(anchors=0))
    def test_sees_broadcasts(self, mask: Drawable[Mask], data: st.DataObject, layout: Layout) -> None:
        """`sees` of any index tensors is what the whole rule says there, whatever their shapes."""
        rule = drawn(data, mask).on(layout)
        dense = rule.dense(layout.queries, layout.sources)
        assert dense.dtype == torch.bool
        assert dense.shape[-2:] == (layout.queries, layout.sources)
        assert dense.ndim in (2, 3)
        q = torch.tensor(data.draw(st.lists(st.integers(0, layout.queries - 1), min_size=1, max_size=5)))
        s = torch.tensor(data.draw(st.lists(st.integers(0, layout.sources - 1), min_size=1, max_size=5)))
        seen = rule.sees(q[:, None, None], s[None, :, None])
        assert torch.equal(seen.expand(*dense.shape[:-2], len(q), len(s), 1)[..., 0], dense[..., q, :][..., s])

    @law
    @given(data=st.data())
    def test_pairs(self, mask: Drawable[Mask], data: st.DataObject) -> None:
        """`pairs` counts what `dense` shows."""
        plugin = drawn(data, mask)
        layout = data.draw(layouts(anchors=_anchors(data, plugin)))
        rule = plugin.on(layout)
        dense = rule.dense(layout.queries, layout.sources)
        counted("pairs", rule.pairs(layout.queries, layout.sources), int(dense.sum()))

    @law
    @given(data=st.data(), layout=layouts(anchors=0), seed=seeds)
    def test_algebra(self, mask: Drawable[Mask], data: st.DataObject, layout: Layout, seed: int) -> None:
        """`&` and `|` are intersection and union, from either side, with any rule and with local ones."""
        rule = drawn(data, mask)
        local = Banded(rule=Band(window=data.draw(sizes), causal=data.draw(st.booleans())))
        for other in (Table(coins(seed, layout.queries, layout.sources)), local, drawn(data, mask)):
            one, two = shown(rule, layout), shown(other, layout)
            for both in (rule & other, other & rule):
                assert same(shown(both, layout), one & two)
            for either in (rule | other, other | rule):
                assert same(shown(either, layout), one | two)

    @law
    @given(data=st.data())
    def test_form(self, mask: Drawable[Mask], data: st.DataObject) -> None:
        """What a kernel may act on tells the truth, alone and joined with other masks."""
        first, second = drawn(data, mask), drawn(data, mask)
        layout = data.draw(layouts(anchors=_anchors(data, first, second)))
        rule, other = first.on(layout), second.on(layout)
        queries, sources = layout.queries, layout.sources
        table = Table(coins(data.draw(seeds), queries, sources))
        causal = Banded(rule=Band(causal=True))
        for joined in (rule, rule & other, rule | other, rule & table, table | rule, rule & causal, causal | rule):
            dense = joined.dense(queries, sources)
            band, hull, listed = joined.band, joined.hull, joined.listed
            if joined.form == "full":
                assert dense.all()
            if joined.form == "causal":
                assert torch.equal(dense, torch.ones(queries, sources, dtype=torch.bool).tril())
            if band is not None:
                assert torch.equal(dense, within_band(band, queries, sources))
                assert hull == band
            if hull is not None:
                assert (within_band(hull, queries, sources) >= dense).all()
            assert (joined.form == "window") <= (hull is not None and hull.window is not None)
            if joined.form == "listed":
                assert listed is not None
                again = torch.zeros(len(listed), queries, sources + 1, dtype=torch.long)
                again.scatter_add_(-1, torch.where(listed < 0, sources, listed), torch.ones_like(listed))
                assert torch.equal(again[..., :sources], dense.expand(len(listed), -1, -1).long())

    @law
    @given(data=st.data(), layout=layouts(apart=True, anchors=0), anchors=st.integers(1, 3))
    def test_anchors(self, mask: Drawable[Mask], data: st.DataObject, layout: Layout, anchors: int) -> None:
        """Extra keys in front are seen by every query, and move nothing else."""
        rule = drawn(data, mask)
        if rule.own_anchors is not None:
            return
        without = shown(rule, layout)
        real_BS = None if layout.real_BS is None else F.pad(layout.real_BS, (anchors, 0), value=True)
        with_anchors = shown(
            rule, attrs.evolve(layout, anchors=anchors, sources=layout.sources + anchors, real_BS=real_BS)
        )
        assert with_anchors[..., :anchors].all()
        assert torch.equal(with_anchors[..., anchors:], without)

    @law
    @given(data=st.data(), chance=st.floats(0, 1, exclude_max=True))
    def test_without_window(self, mask: Drawable[Mask], data: st.DataObject, chance: float) -> None:
        """Without its window a mask hides no pair that it showed; twice is once; in evaluation no chance is taken."""
        rule = drawn(data, mask)
        layout = data.draw(layouts(anchors=_anchors(data, rule)))
        calm = rule.on(attrs.evolve(layout, chance=None))
        wide = calm.without_window()
        narrow, open_ = (part.dense(layout.queries, layout.sources) for part in (calm, wide))
        assert (open_ >= narrow).all()
        assert torch.equal(wide.without_window().dense(layout.queries, layout.sources), open_)
        stirred = shown(rule, attrs.evolve(layout, chance=lambda: chance))
        assert same(stirred, narrow) or same(stirred, open_)
