"""Streams that are noised together, one of them ahead. B sets."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch

from core.kinds.time import Drawn, Time
from core.params import knob, params
from plugins.times._law import Law, drawn, leader, warped
from plugins.times.shared import uniform

if TYPE_CHECKING:
    from torch import Tensor


@params
class Aligned(Time):
    """All streams go from noise to data at once, the first always closer to the data.

    With t the time of the first stream, the others stand at w(t, 1 / a), w(t, a) = t a / (1 + (a - 1) t); so a set of
    the others at t has the first at w(t, a). A share of the sets draws the first stream's time and teaches it, the rest
    draw the others' (Baade et al. 2026, arXiv:2602.11401, shifted aligned times). a = 1 is one time for all.
    """

    staged: ClassVar[bool] = True

    first: str = knob("", "the stream that is ahead; empty: the last one of the system")
    shift: float = knob(4.0, "a, how far it is ahead", ge=1.0)
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
        lead, even = leader(streams, self.first), self.stratified
        ahead_B = drawn(self.law, self.first_mean, self.first_sd, count, generator, stratified=even)
        if len(streams) == 1:
            return Drawn({lead: ahead_B}, {lead: torch.ones_like(ahead_B, dtype=torch.bool)})
        behind_B = drawn(self.law, self.other_mean, self.other_sd, count, generator, stratified=even)
        chosen_B = uniform(count, generator, stratified=even) < self.share
        times, active = {}, {}
        for name in streams:
            if name == lead:
                times[name] = torch.where(chosen_B, ahead_B, warped(behind_B, self.shift))
                active[name] = chosen_B.clone()
            else:
                times[name] = torch.where(chosen_B, warped(ahead_B, 1.0 / self.shift), behind_B)
                active[name] = ~chosen_B
        return Drawn(times, active)

    def course(self, stream: str, streams: tuple[str, ...], at: float) -> tuple[float, float]:
        """As `Time.course`: at the time of the first stream the others are behind by the shift."""
        if stream == leader(streams, self.first):
            return at, 1.0
        a = 1.0 / self.shift
        return at * a / (1.0 + (a - 1.0) * at), a / (1.0 + (a - 1.0) * at) ** 2
