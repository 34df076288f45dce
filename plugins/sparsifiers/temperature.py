"""Temperature of a sparsifier. B batch, H heads, Q query and S source tokens."""

from __future__ import annotations

import torch
from torch import Tensor

from core.params import knob, params
from core.train.schedule import Scheduled, moved


@params
class Temperature:
    """Logits are divided by T, which goes from `start` to `end` along half a cosine and then stays.

    A high temperature spreads the weights, a low one makes them sharp: T towards 0 leaves the greatest logit alone.
    """

    start: float = knob(1.0, "temperature at the first step", gt=0.0)
    end: float = knob(1.0, "temperature from `share` of the training on", gt=0.0)
    share: float = knob(0.6, "share of the training until `end` is reached", gt=0.0, le=1.0, acts="start!=end")


class Cooling(Scheduled):
    """Divides logits by the temperature of the present step."""

    def __init__(self, plugin: Temperature) -> None:
        super().__init__()
        self.plugin = plugin

    def forward(self, logits_BHQS: Tensor) -> Tensor:
        """Logits over T, of the dtype of the logits; the very tensor where T is always 1."""
        plugin = self.plugin
        temperature: Tensor | float = plugin.end
        if plugin.start == plugin.end == 1.0:
            return logits_BHQS
        if plugin.start != plugin.end:
            progressed = moved(plugin.start, plugin.end, plugin.share, "cosine", self.progress)
            temperature = progressed.to(logits_BHQS.dtype)
        cooled_BHQS = logits_BHQS / temperature
        if min(plugin.start, plugin.end) >= 1.0:
            return cooled_BHQS
        # A finite logit stays finite, as an infinite one means that the source is hidden, or takes all.
        most = torch.finfo(logits_BHQS.dtype).max
        return torch.where(logits_BHQS.isinf(), cooled_BHQS, cooled_BHQS.clamp(min=-most, max=most))
