"""Backbone: the network between data and predictions. B sets, N items of a set, M modalities."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar

import attrs

from core.kinds.attention import Attention
from core.kinds.encoder import Encoder
from core.kinds.ffn import FFN
from core.kinds.plugin import Plugin
from core.kinds.residual import Residual

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from torch import nn

    from core.kinds.data import Card


@attrs.frozen(kw_only=True)
class Parts:
    """What a system chose for the network to be made of, and what it is to predict."""

    width: int
    depth: int
    """layers"""
    dropout: float
    """share of each layer's output that is dropped in training"""
    attention: Attention
    ffn: FFN
    residual: Residual
    outputs: Mapping[str, int]
    """by modality that is to be predicted, how many numbers an item; the others are always given, and have no time"""
    encoder: Encoder | None = None
    """items become tokens; None: the backbone embeds the fields itself"""
    recompute: bool = False
    """keep only what enters a layer, and compute the rest again in the backward pass"""

    def tokens(self, card: Card) -> nn.Module:
        """The encoder's module.

        Raises:
            ValueError: there is no encoder, and the backbone has none of its own.
        """
        if self.encoder is None:
            raise ValueError("this backbone takes tokens from an encoder, and the system chooses none; take another")
        return self.encoder.build(card, self.width)


class Backbone(Plugin):
    """How layers are put together: what is embedded, where norms stand, how a layer is told the time, what is read out.

    Which attention and which feed-forward network a layer holds is not its business: they come in `Parts`. The system
    weighs the outputs against the noisy input and blanks padding; a backbone returns raw numbers.

    Laws (`core.testing.backbone.BackboneLaws`): each output has the numbers that were asked for; permuting the items of
    a set permutes the outputs; what padding holds, NaN included, and how much of it there is changes neither outputs
    nor auxiliary losses nor statistics nor gradients; a set's outputs are those of the set alone; the gradient reaches
    every parameter that asks for one; other times give other outputs; randomness comes from the module's own streams;
    it builds and runs without memory; a state loads into another network.
    """

    KIND: ClassVar[str] = "backbone"

    def idle(self, outputs: Collection[str]) -> tuple[str, ...]:
        """Parameters, by dotted name, that do nothing where these modalities alone are predicted."""
        return ()

    @abstractmethod
    def build(self, card: Card, parts: Parts) -> nn.Module:
        """A module `forward(fields, times, real_BN) -> (outputs, Aux)`.

        `fields` are the values (B, N, ...) by modality, noisy where the modality is to be predicted, with whatever else
        the encoder reads; `times` (B,) in [0, 1], where 1 is clean, of each modality in `Parts.outputs`; `real_BN` is
        bool, False on padding. `outputs` has a tensor (B, N, numbers) for each of these modalities; `Aux` names what
        layers say beside them by the layer.

        Raises:
            ValueError: the width does not divide into the heads, or the network cannot predict what is asked for.
        """
