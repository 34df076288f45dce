"""Time: which times of the path a training step visits. B sets."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar

import attrs

from core.kinds.plugin import Plugin

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@attrs.frozen
class Drawn:
    """Times of a batch, and which of its sets teach which stream."""

    times: dict[str, Tensor]
    """by stream, float32 (B,) on the generator's device; t = 1 means the stream is given clean"""
    active: dict[str, Tensor]
    """by stream, bool (B,): the sets in which its loss counts"""


class Time(Plugin):
    """Draws training times for one or several streams (modalities).

    Laws (`core.testing.time.TimeLaws`): times lie in [0, 1]; the draw is a function of the generator alone; every
    stream is noised (t < 1) with positive probability; every set teaches a stream, and none that is given clean; the
    streams of `stages` are those that are taught.
    """

    KIND: ClassVar[str] = "time"
    staged: ClassVar[bool] = False
    """streams are taught in a fixed order, each given those before it and no other way round: what is sampled is
    sampled in that order"""

    @abstractmethod
    def draw(self, count: int, streams: tuple[str, ...], generator: torch.Generator) -> dict[str, Tensor]:
        """For each stream a float32 tensor (B,) on the generator's device; t = 1 means the stream is given clean."""

    def assign(self, count: int, streams: tuple[str, ...], generator: torch.Generator) -> Drawn:
        """The times of `draw`, and which sets teach which stream: every stream that is not given clean.

        A cascade overrides this: there a stream that is still pure noise, or no longer is of interest, teaches nothing.
        """
        times = self.draw(count, streams, generator)
        return Drawn(times, {name: t_B < 1 for name, t_B in times.items()})

    def stages(self, streams: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
        """Which streams move together when all are generated, stage by stage; others wait as noise, or are done.

        A stream of no stage is never taught, and stays noise.
        """
        return (streams,)

    def idle(self, streams: tuple[str, ...]) -> tuple[str, ...]:
        """Parameters, by name, that do nothing where these are all the streams."""
        return ()

    def course(self, stream: str, streams: tuple[str, ...], at: float) -> tuple[float, float]:
        """Where a stream stands when its stage is at `at` in [0, 1], and how fast it moves there."""
        return at, 1.0
