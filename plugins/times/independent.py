"""Each stream at its own time, some given clean. B sets, S streams."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from core.kinds.time import Time
from core.params import knob, params
from plugins.times.shared import uniform

if TYPE_CHECKING:
    from torch import Tensor


@params
class Independent(Time):
    """Each stream is noised to a uniform time of its own; now and then one of them is given clean.

    One network then learns the joint distribution and every conditional (Bao et al. 2023, UniDiffuser,
    arXiv:2303.06555): generating one stream from another means holding the other at t = 1. Under independent uniform
    times that corner has probability 0, so a share `clean` of the sets is placed on it: there exactly one stream,
    chosen evenly, has t = 1, and the others keep their noised times t < 1.

    With a single stream `clean` has no effect: a set without any noised stream would teach nothing.
    """

    clean: float = knob(0.25, "share of sets in which one stream, chosen evenly, is given without noise", ge=0, le=1)
    stratified: bool = knob(
        True, "draw from B equal parts of [0, 1), shuffled, for each stream's times and for which stream is clean"
    )

    def idle(self, streams: tuple[str, ...]) -> tuple[str, ...]:
        return () if len(streams) > 1 else ("clean",)

    def draw(self, count: int, streams: tuple[str, ...], generator: torch.Generator) -> dict[str, Tensor]:
        times = {name: uniform(count, generator, stratified=self.stratified) for name in streams}
        if self.clean > 0 and len(streams) > 1:
            u_B = uniform(count, generator, stratified=self.stratified)
            # One number says both whether a stream is clean and, by where it falls below `clean`, which.
            which_B = (u_B / self.clean * len(streams)).floor()
            for i, name in enumerate(streams):
                times[name] = torch.where((u_B < self.clean) & (which_B == i), 1.0, times[name])
        return times
