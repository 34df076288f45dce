"""What every encoder must do. B sets, N items, D width.

@pytest.mark.parametrize("encoder", [st.builds(Cell, hidden=st.floats(0.5, 3))], ids=repr)
class TestEncoders(EncoderLaws):
    def fields(self, card, sets, items, seed): ...
"""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from core.kinds import Card, Encoder
from core.testing.draws import Drawable, close, coins, drawn, law, randn, seeds, started

sizes = st.integers(1, 5)


class EncoderLaws:
    """Laws of `core.kinds.encoder.Encoder`; parametrise a subclass over `encoder` and say what it reads."""

    def card(self, draw: st.DataObject) -> Card:
        """A card with the sizes that the encoder needs."""
        raise NotImplementedError

    def fields(self, card: Card, sets: int, items: int) -> dict[str, tuple[int, ...]]:
        """Shapes (B, N, ...) of the fields that the encoder reads."""
        raise NotImplementedError

    @law
    @given(data=st.data(), sets=sizes, items=sizes, width=sizes, seed=seeds)
    def test_tokens(
        self, encoder: Drawable[Encoder], data: st.DataObject, sets: int, items: int, width: int, seed: int
    ) -> None:
        """One token an item, of the asked width; real tokens do not depend on what padding holds."""
        card = self.card(data)
        module = started(drawn(data, encoder).build(card, width), seed)
        real_BN = coins(seed + 1, sets, items)
        fields = self._drawn(card, sets, items, seed)
        tokens = module(fields, real_BN)
        assert tokens.x_BTD.shape == (sets, items, width)
        assert torch.equal(tokens.real_BT, real_BN)
        wild = {k: torch.where(_over(real_BN, v), v, 1e6) for k, v in fields.items()}
        close([module(wild, real_BN).x_BTD[real_BN]], [tokens.x_BTD[real_BN]])

    @law
    @given(data=st.data(), sets=sizes, items=sizes, width=sizes, seed=seeds)
    def test_order(
        self, encoder: Drawable[Encoder], data: st.DataObject, sets: int, items: int, width: int, seed: int
    ) -> None:
        """Permuting the items of a set permutes its tokens."""
        card = self.card(data)
        module = started(drawn(data, encoder).build(card, width), seed)
        real_BN = torch.ones(sets, items, dtype=torch.bool)
        fields = self._drawn(card, sets, items, seed)
        order = torch.randperm(items, generator=torch.Generator().manual_seed(seed))
        there = module({k: v[:, order] for k, v in fields.items()}, real_BN)
        close([there.x_BTD], [module(fields, real_BN).x_BTD[:, order]])

    @law
    @given(data=st.data(), width=sizes)
    def test_meta(self, encoder: Drawable[Encoder], data: st.DataObject, width: int) -> None:
        """An encoder builds and runs without memory."""
        card = self.card(data)
        with torch.device("meta"):
            module = drawn(data, encoder).build(card, width)
            fields = {k: torch.empty(shape) for k, shape in self.fields(card, 2, 3).items()}
            assert module(fields, torch.ones(2, 3, dtype=torch.bool)).x_BTD.shape == (2, 3, width)

    def _drawn(self, card: Card, sets: int, items: int, seed: int) -> dict[str, Tensor]:
        return {k: randn(seed + i, *shape) for i, (k, shape) in enumerate(self.fields(card, sets, items).items())}


def _over(real_BN: Tensor, x: Tensor) -> Tensor:
    return real_BN.reshape(*real_BN.shape, *[1] * (x.ndim - 2))
