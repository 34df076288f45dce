"""scGPT's encoder with weights that nobody trained: what its form alone is worth. N items, G columns, D width."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import final

import numpy as np
import torch

from core.kinds.extractor import Extractor
from core.params import knob, params
from core.train.streams import Streams
from plugins.extractors._columns import checked, named
from plugins.extractors._normalised import Normalised, kept_names, normalised, restored
from plugins.extractors._scgpt_encoder import Encoder
from plugins.extractors._scgpt_raw import Tokenised
from plugins.extractors._scgpt_tokens import Ties


@final
@params
class ScgptRandom(Extractor):
    """As `scgpt`, with the first values of a seed for weights; it reads no file and knows every name.

    A comparison with it tells what training gave scGPT beyond bins, attention over expressed genes and depth.
    """

    embed: int = knob(64, "width of a latent", ge=2)
    layers: int = knob(2, "layers of the encoder", ge=1)
    heads: int = knob(2, "attention heads; they divide the width", ge=1)
    bins: int = knob(51, "bins of values, with that of zeros", ge=3)
    longest: int = knob(1200, "tokens of an item, `<cls>` among them, at most", ge=2)
    ties: Ties = knob("left", "which of the bins that hold equal values they share: the last, or the middle one")
    seed: int = knob(0, "of the weights, the same for all seeds of a run", ge=0)
    fitted_on: int | None = knob(
        4096, "training items that means and deviations are taken over, drawn at random; none: all", ge=64
    )
    target_std: float | None = knob(None, "standard deviation of each channel; none: that of training values", gt=0.0)

    def __attrs_post_init__(self) -> None:
        if self.embed % self.heads:
            raise ValueError(f"embed {self.embed} is no multiple of heads {self.heads}; choose another of the two")

    @property
    def width(self) -> int:
        return self.embed

    def fit(self, values_NG: np.ndarray, names: Sequence[str], streams: Streams, device: str = "cpu") -> Normalised:
        known = named(names)
        checked(values_NG, known)
        raw = self._raw(len(known))
        return normalised(raw, values_NG, known, self.target_std, streams=streams, most=self.fitted_on, device=device)

    def restore(self, state: Mapping[str, np.ndarray], names: Sequence[str] | None = None) -> Normalised:
        there, given = kept_names(state, names)
        return restored(self._raw(len(there)), state, given)

    def _raw(self, columns: int) -> Tokenised:
        encoder = Encoder(2 + columns, self.embed, self.embed, self.layers, self.heads)
        Streams(self.seed).initialise(encoder)
        rows_G = torch.arange(2, 2 + columns)
        return Tokenised(
            encoder,
            rows_G,
            keyed_G=rows_G.numpy(),
            cls=0,
            pad=1,
            pad_value=-2.0,
            bins=self.bins,
            longest=self.longest,
            ties=self.ties,
            precision="float32",
            half=False,
            kept={},
        )
