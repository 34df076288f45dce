"""Temperature of a sparsifier. B batch, H heads, Q query and S source tokens."""

from __future__ import annotations

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
    share: float = knob(0.6, "share of the training until `end` is reached", gt=0.0, le=1.0)


class Cooling(Scheduled):
    """Divides logits by the temperature of the present step."""

    def __init__(self, plugin: Temperature) -> None:
        super().__init__()
        self.plugin = plugin

    def forward(self, logits_BHQS: Tensor) -> Tensor:
        """Logits over T, of the dtype of the logits; the very tensor where T is always 1."""
        plugin = self.plugin
        if plugin.start == plugin.end:
            return logits_BHQS if plugin.end == 1.0 else logits_BHQS / plugin.end
        temperature = moved(plugin.start, plugin.end, plugin.share, "cosine", self.progress)
        return logits_BHQS / temperature.to(logits_BHQS.dtype)
