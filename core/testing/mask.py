"""What every mask must do. Q query and S source tokens.

@pytest.mark.parametrize("mask", [Full(), st.builds(Window, reach=st.integers(0, 9))], ids=repr)
class TestMasks(MaskLaws): ...
"""

from __future__ import annotations

import attrs
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from core.kinds.mask import Mask
from core.testing.draws import Drawable, coins, drawn, law, seeds

sizes = st.integers(1, 12)


@attrs.frozen(eq=False)
class Table(Mask):
    """Pairs in so many words: a bool tensor (Q, S). The mask that kernels and attentions are tried with."""

    shown_QS: Tensor

    def sees(self, q: Tensor, s: Tensor) -> Tensor:
        return self.shown_QS[q, s]


class MaskLaws:
    """Laws of `core.kinds.mask.Mask`; parametrise a subclass over `mask`, a plugin or a strategy of plugins."""

    @law
    @given(data=st.data(), queries=sizes, sources=sizes)
    def test_sees_broadcasts(self, mask: Drawable[Mask], data: st.DataObject, queries: int, sources: int) -> None:
        """`sees` of any index tensors is what the whole rule says there, whatever their shapes."""
        rule = drawn(data, mask)
        dense_QS = rule.dense(queries, sources)
        assert dense_QS.dtype == torch.bool
        assert dense_QS.shape == (queries, sources)
        q = torch.tensor(data.draw(st.lists(st.integers(0, queries - 1), min_size=1, max_size=5)))
        s = torch.tensor(data.draw(st.lists(st.integers(0, sources - 1), min_size=1, max_size=5)))
        seen = rule.sees(q[:, None, None], s[None, :, None])
        assert torch.equal(seen.expand(len(q), len(s), 1)[..., 0], dense_QS[q][:, s])

    @law
    @given(data=st.data(), queries=sizes, sources=sizes)
    def test_pairs(self, mask: Drawable[Mask], data: st.DataObject, queries: int, sources: int) -> None:
        """`pairs` counts what `dense` shows."""
        rule = drawn(data, mask)
        assert rule.pairs(queries, sources) == int(rule.dense(queries, sources).sum())

    @law
    @given(data=st.data(), queries=sizes, sources=sizes, seed=seeds)
    def test_algebra(self, mask: Drawable[Mask], data: st.DataObject, queries: int, sources: int, seed: int) -> None:
        """`&` and `|` are intersection and union, from either side."""
        rule, other = drawn(data, mask), Table(coins(seed, queries, sources))
        dense_QS = rule.dense(queries, sources)
        for both in (rule & other, other & rule):
            assert torch.equal(both.dense(queries, sources), dense_QS & other.shown_QS)
        for either in (rule | other, other | rule):
            assert torch.equal(either.dense(queries, sources), dense_QS | other.shown_QS)

    @law
    @given(data=st.data(), queries=sizes, sources=sizes)
    def test_form(self, mask: Drawable[Mask], data: st.DataObject, queries: int, sources: int) -> None:
        """A form that a kernel may act on tells the truth, alone and joined with other masks."""
        rule = drawn(data, mask)
        causal_QS = torch.ones(queries, sources, dtype=torch.bool).tril()
        for joined in (rule, rule & rule, rule | rule, rule & Table(causal_QS), Table(causal_QS) | rule):
            if joined.form == "full":
                assert joined.dense(queries, sources).all()
            if joined.form == "causal":
                assert torch.equal(joined.dense(queries, sources), causal_QS)
