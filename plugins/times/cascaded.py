"""A stream that is generated first, and the others after it. B sets."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

import torch

from core.kinds.time import Drawn, Time
from core.params import knob, params
from plugins.times._law import Law, drawn, leader
from plugins.times.shared import uniform

if TYPE_CHECKING:
    from torch import Tensor


@params
class Cascaded(Time):
    """A share of the sets teaches the first stream, with the others pure noise; the rest teaches the others.

    Generation then goes in two stages through one network: the first stream from noise while the others wait as noise,
    then the others while the first stands still (Baade et al. 2026, latent forcing, arXiv:2602.11401). In the second
    stage training gives the first stream `exact`, at t = 1, or `noised`, at a uniform time of [1 - beta, 1): generated
    values are never quite those of the data, and a network that has only seen the latter trusts them too much.

    No set teaches both stages, so a loss is to be divided by the sets that count for it (`Drawn.active`). With a single
    stream this is a plain draw.
    """

    staged: ClassVar[bool] = True

    first: str = knob("", "the stream that is generated first; empty: the last one of the system")
    share: float = knob(0.4, "share of sets that teach the first stream", gt=0.0, lt=1.0)
    clean: Literal["exact", "noised"] = knob("exact", "the first stream while the others are taught")
    beta: float = knob(0.25, "how far from clean it may be", gt=0.0, lt=1.0, acts="clean=noised")
    law: Law = knob("uniform", "law of the times of the stream that is taught")
    first_mean: float = knob(-0.8, "of the first stream, before the sigmoid", acts="law=logit_normal")
    first_sd: float = knob(0.8, "of the first stream, before the sigmoid", gt=0.0, acts="law=logit_normal")
    other_mean: float = knob(-0.8, "of the other streams, before the sigmoid", acts="law=logit_normal")
    other_sd: float = knob(0.8, "of the other streams, before the sigmoid", gt=0.0, acts="law=logit_normal")
    early: float = knob(
        0.0, "share of the sets that teach the others whose time is uniform in [0, .5), where a law has few", ge=0, le=1
    )
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
        # Strata hold floor or ceil of `share` B sets, and `share` B on average, also where that is below one set.
        chosen_B = uniform(count, generator, stratified=even) < self.share
        given_B = torch.ones_like(ahead_B)
        if self.clean == "noised":
            given_B = 1.0 - self.beta * (1.0 - uniform(count, generator, stratified=even))
        times = {lead: torch.where(chosen_B, ahead_B, given_B)}
        for name in streams:
            if name != lead:
                t_B = drawn(self.law, self.other_mean, self.other_sd, count, generator, stratified=even)
                if self.early:
                    soon_B = uniform(count, generator, stratified=even) < self.early
                    t_B = torch.where(soon_B, 0.5 * uniform(count, generator, stratified=even), t_B)
                times[name] = torch.where(chosen_B, 0.0, t_B)
        active = {name: chosen_B.clone() if name == lead else ~chosen_B for name in streams}
        return Drawn({name: times[name] for name in streams}, active)

    def stages(self, streams: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
        lead = leader(streams, self.first)
        others = tuple(name for name in streams if name != lead)
        return ((lead,), others) if others else ((lead,),)
