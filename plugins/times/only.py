"""One stream that is taught, the others pure noise. B sets."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, final

import torch

from core.kinds.time import Drawn, Time
from core.params import knob, params
from plugins.times._law import Law, drawn

if TYPE_CHECKING:
    from torch import Tensor


@final
@params
class Only(Time):
    """One stream is taught; the others are pure noise, in training as in generation.

    The control that a cascade needs: the same network, parameter for parameter, beside a first stream that says
    nothing (Baade et al. 2026, arXiv:2602.11401, times of one modality only). With a single stream a plain draw.
    """

    staged: ClassVar[bool] = True

    stream: str = knob("", "the stream that is taught; empty: the first one of the system")
    law: Law = knob("uniform", "law of its times")
    mean: float = knob(-0.8, "before the sigmoid", acts="law=logit_normal")
    sd: float = knob(0.8, "before the sigmoid", gt=0.0, acts="law=logit_normal")
    stratified: bool = knob(True, "spread times evenly over a batch")

    def draw(self, count: int, streams: tuple[str, ...], generator: torch.Generator) -> dict[str, Tensor]:
        return self.assign(count, streams, generator).times

    def assign(self, count: int, streams: tuple[str, ...], generator: torch.Generator) -> Drawn:
        """As `Time.assign`.

        Raises:
            ValueError: fewer than one set, or no stream of the name `stream`.
        """
        ((taught,),) = self.stages(streams)
        t_B = drawn(self.law, self.mean, self.sd, count, generator, stratified=self.stratified)
        times = {name: t_B if name == taught else torch.zeros_like(t_B) for name in streams}
        return Drawn(times, {name: torch.full_like(t_B, name == taught, dtype=torch.bool) for name in streams})

    def stages(self, streams: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
        if self.stream and self.stream not in streams:
            raise ValueError(f"stream = {self.stream!r} is no stream of this model, which has {', '.join(streams)}")
        return ((self.stream or streams[0],),)

    def idle(self, streams: tuple[str, ...]) -> tuple[str, ...]:
        return () if len(streams) > 1 else ("stream",)
