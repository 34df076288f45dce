"""Time: which times of the path a training step visits. B sets."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar

from core.kinds.plugin import Plugin

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class Time(Plugin):
    """Draws training times for one or several streams (modalities).

    Laws (`core.testing.time.TimeLaws`): times lie in [0, 1]; the draw is a function of the generator alone; every
    stream is noised (t < 1) with positive probability.
    """

    KIND: ClassVar[str] = "time"

    @abstractmethod
    def draw(self, count: int, streams: tuple[str, ...], generator: torch.Generator) -> dict[str, Tensor]:
        """For each stream a float32 tensor (B,) on the generator's device; t = 1 means the stream is given clean."""
