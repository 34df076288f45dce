"""Random loadings as latents: what remains of `pca` without its components. N items, G columns, D width."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import final

import numpy as np
import torch

from core.kinds.extractor import Extractor
from core.params import knob, params
from core.train.streams import Streams
from plugins.extractors._columns import ascending, checked, named
from plugins.extractors._loadings import Covers, Loadings, Times
from plugins.extractors._normalised import Normalised, kept_names, normalised, raw_state, restored


@final
@params
class RandomProjection(Extractor):
    """The latents of `pca` with loadings drawn from N(0, 1/G) instead of learned ones.

    Each column's loadings are drawn from the stream of its name, so that they depend neither on the order of columns
    nor on which others there are; the items tell the centre and the deviations alone. Scores are then a random
    projection of the item (Johnson & Lindenstrauss 1984), which keeps distances between items up to noise.
    """

    k: int = knob(8, "width of a latent", ge=1)
    seed: int = knob(0, "of the loadings, the same for all seeds of a run", ge=0)
    times: Times = knob("scores", "what loadings are multiplied with: scores of the item, or the entry's own value")
    covers: Covers = knob("all", "entries that get a latent: all, or those that are not 0")
    target_std: float | None = knob(None, "standard deviation of each channel; none: that of training values", gt=0.0)

    @property
    def dense(self) -> bool:
        return self.covers == "all"

    @property
    def relative(self) -> bool:
        return self.dense

    @property
    def width(self) -> int:
        return self.k

    def fit(self, values_NG: np.ndarray, names: Sequence[str], streams: Streams, device: str = "cpu") -> Normalised:
        known = named(names)
        mean_G = np.asarray(checked(values_NG, known).mean(0, dtype=np.float64))[ascending(known)]
        raw = Loadings(self._loadings(sorted(known)), mean_G, self.times, self.covers)
        return normalised(raw, values_NG, known, self.target_std, streams=streams, device=device)

    def restore(self, state: Mapping[str, np.ndarray], names: Sequence[str] | None = None) -> Normalised:
        there, given = kept_names(state, names)
        loadings_GD = raw_state(state, "loadings", (len(there), self.k))
        raw = Loadings(loadings_GD, raw_state(state, "centre", (len(there),)), self.times, self.covers)
        return restored(raw, state, given)

    def _loadings(self, names: Sequence[str]) -> np.ndarray:
        streams = Streams(self.seed)
        rows = [torch.randn(self.k, generator=streams.generator(f"extractor:loading:{name}")) for name in names]
        return torch.stack(rows).numpy() / np.sqrt(len(names))
