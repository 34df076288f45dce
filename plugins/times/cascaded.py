"""A stream that is generated first, and the others after it. B sets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, final

import torch

from core.params import knob, params
from plugins.times._staged import Staged
from plugins.times.shared import uniform

if TYPE_CHECKING:
    from torch import Tensor


@final
@params
class Cascaded(Staged):
    """A share of the sets teaches the first stream, with the others pure noise; the rest teaches the others.

    Generation then goes in two stages through one network: the first stream from noise while the others wait as noise,
    then the others while the first stands still (Baade et al. 2026, latent forcing, arXiv:2602.11401). In the second
    stage training gives the first stream `exact`, at t = 1, or `noised`, at a uniform time of [1 - beta, 1): generated
    values are never quite those of the data, and a network that has only seen the latter trusts them too much.
    """

    clean: Literal["exact", "noised"] = knob("exact", "the first stream while the others are taught")
    beta: float = knob(0.25, "how far from clean it may be", gt=0.0, lt=1.0, acts="clean=noised")
    early: float = knob(
        0.0, "share of the sets that teach the others whose time is uniform in [0, .5), where a law has few", ge=0, le=1
    )

    def placed(
        self, taught_B: Tensor, others: tuple[str, ...], lead: str, generator: torch.Generator
    ) -> tuple[dict[str, Tensor], Tensor]:
        """As `Staged.placed`: the others wait at 0 where the first is taught, which is clean or nearly so elsewhere."""
        count, even = len(taught_B), self.stratified
        chosen_B = self.chosen(count, generator)
        given_B = torch.ones_like(taught_B)
        if self.clean == "noised":
            given_B = 1.0 - self.beta * (1.0 - uniform(count, generator, stratified=even))
        times = {lead: torch.where(chosen_B, taught_B, given_B)}
        for name in others:
            t_B = self.other(count, generator)
            if self.early:
                soon_B = uniform(count, generator, stratified=even) < self.early
                t_B = torch.where(soon_B, 0.5 * uniform(count, generator, stratified=even), t_B)
            times[name] = torch.where(chosen_B, 0.0, t_B)
        return times, chosen_B

    def stages(self, streams: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
        lead = self.leader(streams)
        others = tuple(name for name in streams if name != lead)
        return ((lead,), others) if others else ((lead,),)
