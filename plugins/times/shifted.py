"""Each stream at its own time, all of them nearer to the noise or to the data. B sets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from core.kinds.time import Time
from core.params import knob, params
from plugins.times._law import warped
from plugins.times.shared import uniform

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@params
class Shifted(Time):
    """Each stream is noised to a time of its own, t = a u / (1 + (a - 1) u) of a uniform u.

    A shift a below 1 moves times towards the noise, as the more of them have to be learned there the more numbers a
    stream has (Esser et al. 2024, arXiv:2403.03206, section 5.3.2); with a = 1/2 they are the shifted independent times
    of Baade et al. 2026 (arXiv:2602.11401). No stream is ever clean.
    """

    shift: float = knob(0.5, "a: below 1 towards the noise, above towards the data", gt=0.0)
    stratified: bool = knob(True, "draw from B equal parts of [0, 1), shuffled, for each stream's times")

    def draw(self, count: int, streams: tuple[str, ...], generator: torch.Generator) -> dict[str, Tensor]:
        return {m: warped(uniform(count, generator, stratified=self.stratified), self.shift) for m in streams}
