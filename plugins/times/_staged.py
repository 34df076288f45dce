"""What times have in common that put one stream before the others. B sets."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar

import torch

from core.kinds.time import Drawn, Time
from core.params import fields, knob, params
from plugins.times._law import Law, drawn, leader
from plugins.times.shared import uniform

if TYPE_CHECKING:
    from torch import Tensor

ALONE = frozenset({"law", "first_mean", "first_sd", "stratified"})
"""parameters that act for a single stream too"""


@params
class Staged(Time):
    """A share of the sets teaches the first stream, the rest teaches the others.

    No set teaches both, so a loss is to be divided by the sets that count for it (`Drawn.active`). With a single stream
    this is a plain draw.
    """

    staged: ClassVar[bool] = True

    first: str = knob("", "the stream that comes first; empty: the last one of the system")
    share: float = knob(0.4, "share of sets that teach the first stream", gt=0.0, lt=1.0)
    law: Law = knob("uniform", "law of the times of the stream that is taught")
    first_mean: float = knob(-0.8, "of the first stream, before the sigmoid", acts="law=logit_normal")
    first_sd: float = knob(0.8, "of the first stream, before the sigmoid", gt=0.0, acts="law=logit_normal")
    other_mean: float = knob(-0.8, "of the other streams, before the sigmoid", acts="law=logit_normal")
    other_sd: float = knob(0.8, "of the other streams, before the sigmoid", gt=0.0, acts="law=logit_normal")
    stratified: bool = knob(True, "spread times and shares evenly over a batch")

    def draw(self, count: int, streams: tuple[str, ...], generator: torch.Generator) -> dict[str, Tensor]:
        return self.assign(count, streams, generator).times

    def assign(self, count: int, streams: tuple[str, ...], generator: torch.Generator) -> Drawn:
        """As `Time.assign`; a set is active for the first stream or for all others, never for both.

        Raises:
            ValueError: fewer than one set, or no stream of the name `first`.
        """
        lead = self.leader(streams)
        taught_B = drawn(self.law, self.first_mean, self.first_sd, count, generator, stratified=self.stratified)
        if len(streams) == 1:
            return Drawn({lead: taught_B}, {lead: torch.ones_like(taught_B, dtype=torch.bool)})
        times, chosen_B = self.placed(taught_B, tuple(name for name in streams if name != lead), lead, generator)
        active = {name: chosen_B.clone() if name == lead else ~chosen_B for name in streams}
        return Drawn({name: times[name] for name in streams}, active)

    @abstractmethod
    def placed(
        self, taught_B: Tensor, others: tuple[str, ...], lead: str, generator: torch.Generator
    ) -> tuple[dict[str, Tensor], Tensor]:
        """The times of all streams, and the sets that teach the first.

        Args:
            taught_B: times of the first stream where it is taught.
            others: the streams after it, one at least.
            lead: the first stream.
            generator: source of the other draws.
        """

    def idle(self, streams: tuple[str, ...]) -> tuple[str, ...]:
        """As `Time.idle`: a single stream has the law of the first, and nothing comes before or after it."""
        return () if len(streams) > 1 else tuple(f.name for f in fields(type(self)) if f.name not in ALONE)

    def leader(self, streams: tuple[str, ...]) -> str:
        """The stream that comes first: the one that was named, else the last.

        Raises:
            ValueError: there is none of that name.
        """
        return leader(streams, self.first)

    def chosen(self, count: int, generator: torch.Generator) -> Tensor:
        """The sets (B,) that teach the first stream.

        Strata hold floor or ceil of `share` B sets, and `share` B on average, also where that is below one set.
        """
        return uniform(count, generator, stratified=self.stratified) < self.share

    def other(self, count: int, generator: torch.Generator) -> Tensor:
        """Times (B,) of a stream after the first where it is taught."""
        return drawn(self.law, self.other_mean, self.other_sd, count, generator, stratified=self.stratified)
