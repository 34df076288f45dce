"""Latents of a published scGPT encoder. N items, G columns, V names, D width."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import final

import attrs
import numpy as np
import torch

from core.errors import UserError
from core.identity import digest
from core.kinds.extractor import Extractor
from core.params import knob, params
from core.train.streams import Streams
from plugins.extractors import _scgpt_files as files
from plugins.extractors._cache import Cache
from plugins.extractors._columns import checked, named, packed, unpacked
from plugins.extractors._content import place
from plugins.extractors._normalised import Normalised, kept_names, normalised, raw_state, restored
from plugins.extractors._scgpt_raw import Precision, Tokenised
from plugins.extractors._scgpt_tokens import Ties

REVISION = 1
"""of the arithmetic between an item and its latents; raised when it changes, so that cached ones no longer match"""


@final
@params
class Scgpt(Extractor):
    """The last hidden layer of scGPT's encoder (Cui et al. 2024), frozen, at each expressed gene.

    An item's expressed genes that the vocabulary knows are put into bins by the item's own quantiles, over all of
    them; the `max_seq_len - 1` most expressed become tokens behind `<cls>`, whose value is that of padding, and are
    encoded once. Bins of equal values are equal, where the published code draws them anew at each reading. Genes are
    found by symbol. Which entries are 0 tells which genes are expressed.
    """

    dir: str = knob(
        attrs.NOTHING,
        "folder with args.json, vocab.json, best_model.pt; its content counts, not its place",
        identity=False,
    )
    ties: Ties = knob("left", "which of the bins that hold equal values they share: the last, or the middle one")
    precision: Precision = knob("float32", "in which the encoder multiplies")
    half: bool = knob(False, "round raw latents to float16, in which the cache then keeps them")
    fitted_on: int | None = knob(
        4096, "training items that means and deviations are taken over, drawn at random; none: all", ge=64
    )
    target_std: float | None = knob(None, "standard deviation of each channel; none: that of training values", gt=0.0)
    cache: str = knob("", "folder that keeps raw latents by the content of items; empty: none", identity=False)
    cache_limit: float = knob(
        50.0,
        "size of a checkpoint's latents at which the cache takes no more",
        gt=0.0,
        unit="GiB",
        acts='cache!=""',
        identity=False,
    )

    @property
    def width(self) -> int:
        return files.read_settings(self._folder).width

    def vocabulary(self) -> frozenset[str]:
        settings = files.read_settings(self._folder)
        names = files.read_vocabulary(self._folder, settings)
        return frozenset(name for name in names if not (name.startswith("<") and name.endswith(">")))

    def fingerprint(self) -> str:
        return files.fingerprint(self._folder)

    def fit(self, values_NG: np.ndarray, names: Sequence[str], streams: Streams, device: str = "cpu") -> Normalised:
        """Means and deviations of the latents, in one pass over the items or over `fitted_on` of them.

        Raises:
            UserError: see `Extractor.fit`; or a file is missing, or is not what it should be.
        """
        known = named(names)
        checked(values_NG, known)
        raw = self._raw(sorted(known))
        return normalised(raw, values_NG, known, self.target_std, streams=streams, most=self.fitted_on, device=device)

    def restore(self, state: Mapping[str, np.ndarray], names: Sequence[str] | None = None) -> Normalised:
        there, given = kept_names(state, names)
        kept, here = unpacked(raw_state(state, "fingerprint")), self.fingerprint()
        if kept != here:
            raise UserError(
                f"the kept statistics are of another scGPT: its files had SHA-256 {kept[:16]}, those in {self.dir} "
                f"have {here[:16]}"
            )
        return restored(self._raw(there), state, given)

    @property
    def _folder(self) -> Path:
        return place(self.dir)

    def _raw(self, names: Sequence[str]) -> Tokenised:
        """The encoder, with those rows of its embedding that these sorted names ask for."""
        settings = files.read_settings(self._folder)
        vocabulary = files.read_vocabulary(self._folder, settings)
        weights = files.read_weights(self._folder, settings, max(vocabulary.values()) + 1)
        special = [vocabulary[files.CLS], vocabulary[settings.pad]]
        rows = special + [vocabulary[name] for name in names if name in vocabulary]
        weights["encoder.embedding.weight"] = weights["encoder.embedding.weight"][rows]
        with torch.device("meta"):
            encoder = files.encoder_of(settings, len(rows))
        encoder.load_state_dict(weights, assign=True)
        known = iter(range(2, len(rows)))
        rows_G = torch.tensor([next(known) if name in vocabulary else -1 for name in names])
        fingerprint = self.fingerprint()
        # In terms of the checkpoint's rows, so that panels of other genes share what they have in common.
        keyed_G = np.array([vocabulary.get(name, -1) for name in names], dtype=np.int64)
        salt = digest([REVISION, fingerprint, self.ties, self.precision, self.half])
        cache = Cache(place(self.cache) / fingerprint[:16], self.cache_limit) if self.cache else None
        return Tokenised(
            encoder,
            rows_G,
            keyed_G=keyed_G,
            cls=0,
            pad=1,
            pad_value=settings.pad_value,
            bins=settings.bins,
            longest=settings.longest,
            ties=self.ties,
            precision=self.precision,
            half=self.half,
            cache=cache,
            salt=salt,
            kept={"fingerprint": packed(fingerprint)},
        )
