"""Streams that are noised together, one of them ahead. B sets."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import torch

from core.params import knob, params
from plugins.shared.shift import shifted
from plugins.times._law import warped
from plugins.times._staged import Staged

if TYPE_CHECKING:
    from torch import Tensor


@final
@params
class Aligned(Staged):
    """All streams go from noise to data at once, the first always closer to the data.

    With t the time of the first stream, the others stand at w(t, 1 / a), w(t, a) = t a / (1 + (a - 1) t); so a set of
    the others at t has the first at w(t, a). A share of the sets draws the first stream's time and teaches it, the rest
    draw the others' (Baade et al. 2026, arXiv:2602.11401, shifted aligned times). a = 1 is one time for all.
    """

    shift: float = knob(4.0, "a, how far the first stream is ahead", ge=1.0)

    def placed(
        self, taught_B: Tensor, others: tuple[str, ...], lead: str, generator: torch.Generator
    ) -> tuple[dict[str, Tensor], Tensor]:
        """As `Staged.placed`: every set has both, one the shifted time of the other."""
        behind_B = self.other(len(taught_B), generator)
        chosen_B = self.chosen(len(taught_B), generator)
        times = {lead: torch.where(chosen_B, taught_B, warped(behind_B, self.shift))}
        for name in others:
            times[name] = torch.where(chosen_B, warped(taught_B, 1.0 / self.shift), behind_B)
        return times, chosen_B

    def course(self, stream: str, streams: tuple[str, ...], at: float) -> tuple[float, float]:
        """As `Time.course`: at the time of the first stream the others are behind by the shift."""
        if stream == self.leader(streams):
            return at, 1.0
        a = 1.0 / self.shift
        return shifted(at, a), a / (1.0 + (a - 1.0) * at) ** 2
