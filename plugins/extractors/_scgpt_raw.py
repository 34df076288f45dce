"""scGPT's encoder as raw latents. N items, G columns, K chosen columns, L tokens, E tokens of one item, D width."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, final

import numpy as np
import torch
from torch import Tensor

from core.kinds.extractor import Latents
from plugins.extractors._cache import Cache
from plugins.extractors._columns import keys
from plugins.extractors._normalised import Raw
from plugins.extractors._scgpt_encoder import Encoder
from plugins.extractors._scgpt_tokens import Ties, binned, chosen

TOGETHER = 1 << 16
"""tokens that are encoded at once on an accelerator, padding among them"""
Precision = Literal["float32", "bfloat16"]


@final
class Tokenised(Raw):
    """Each item's expressed and known entries are tokens behind `<cls>`; the encoder's last layer is their latents.

    The context of a token is all that the item expresses, whichever columns are asked for.
    """

    def __init__(
        self,
        encoder: Encoder,
        rows_G: Tensor,
        *,
        keyed_G: np.ndarray,
        cls: int,
        pad: int,
        pad_value: float,
        bins: int,
        longest: int,
        ties: Ties,
        precision: Precision,
        half: bool,
        cache: Cache | None = None,
        salt: str = "",
        kept: Mapping[str, np.ndarray],
    ) -> None:
        """
        Args:
            encoder: its parameters are frozen here.
            rows_G: int64, row of the embedding of each sorted column, -1 where the name is unknown.
            keyed_G: int64, what tells sorted columns apart in the cache's keys.
            cls: row of the token in front.
            pad: row of padding.
            pad_value: value of both.
            bins: bins of values, with that of zeros.
            longest: tokens of an item, at most.
            ties: which bin equal values share.
            precision: in which the encoder multiplies.
            half: whether latents are rounded to float16.
            cache: where latents are kept.
            salt: of the cache's keys; tells all that decides latents beside the item.
            kept: what `state` returns: it tells one encoder from another.
        """
        self._encoder = encoder.requires_grad_(False).eval()
        self._rows_G, self._cls, self._pad, self._pad_value = rows_G, cls, pad, pad_value
        self._bins, self._most, self._ties = bins, longest - 1, ties
        self._precision, self._kind = precision, torch.float16 if half else torch.float32
        self._cache, self._salt, self._keyed_G, self._kept = cache, salt, keyed_G, dict(kept)
        self.width = encoder.encoder.embedding.embedding_dim

    def __call__(self, values_NG: Tensor, columns_K: Tensor) -> Latents:
        device = values_NG.device
        rows_G = self._rows_G.to(device)
        known_NG = torch.where(rows_G >= 0, values_NG, 0.0).clamp_min(0.0)
        bins_NG = binned(known_NG, self._bins, self._ties)
        tokens_NG = chosen(known_NG, self._most)
        z_NKD = torch.zeros(len(values_NG), len(columns_K), self.width, device=device)
        place_NG = tokens_NG.cumsum(1) - 1
        place_NK, covered_NK = place_NG[:, columns_K], tokens_NG[:, columns_K]
        found = self._found(known_NG, tokens_NG, bins_NG, rows_G)
        for item, z_ED in enumerate(found):
            there_K = covered_NK[item]
            z_NKD[item, there_K] = z_ED.float()[place_NK[item, there_K]]
        return Latents(z_NKD, covered_NK)

    def state(self) -> dict[str, np.ndarray]:
        return dict(self._kept)

    def _found(self, known_NG: Tensor, tokens_NG: Tensor, bins_NG: Tensor, rows_G: Tensor) -> list[Tensor]:
        """Latents (E, D) of each item's tokens, from the cache or encoded."""
        device, kind = known_NG.device, np.float16 if self._kind == torch.float16 else np.float32
        named: list[str] = []
        kept: list[Tensor | None] = [None] * len(known_NG)
        if self._cache is not None:
            digests = keys(known_NG.cpu().numpy(), self._keyed_G, self._salt)
            named = [digest.hex() for digest in digests]
            for item, key in enumerate(named):
                array = self._cache.get(key, self.width, kind)
                if array is not None and len(array) == int(tokens_NG[item].sum()):
                    kept[item] = torch.from_numpy(array).to(device)
        missing = [item for item, z_ED in enumerate(kept) if z_ED is None]
        parts = [(rows_G[tokens_NG[i]], bins_NG[i, tokens_NG[i]]) for i in missing]
        for item, z_ED in zip(missing, self._encoded(parts), strict=True):
            kept[item] = z_ED
            if self._cache is not None:
                self._cache.put(named[item], z_ED.cpu().numpy())
        return [z_ED for z_ED in kept if z_ED is not None]

    def _encoded(self, parts: Sequence[tuple[Tensor, Tensor]]) -> list[Tensor]:
        """Latents (E, D) of the tokens of items, given their rows and bins (E,).

        On a processor items go through one by one, which is no slower and makes an item's last digit its own. An
        accelerator takes as many at once as fit, items of like length together.
        """
        together = 1 if parts and parts[0][0].device.type == "cpu" else TOGETHER
        found: dict[int, Tensor] = {}
        for group in grouped([1 + len(rows_E) for rows_E, _ in parts], together):
            found |= dict(zip(group, self.encode([parts[i] for i in group]), strict=True))
        return [found[i] for i in range(len(parts))]

    def encode(self, parts: Sequence[tuple[Tensor, Tensor]]) -> list[Tensor]:
        """Latents (E, D) of some items' tokens in one pass, padded to the longest, without that of `<cls>`."""
        device = parts[0][0].device
        lengths = [1 + len(rows_E) for rows_E, _ in parts]
        longest = max(lengths)
        rows_NL = torch.full((len(parts), longest), self._pad, dtype=torch.int64, device=device)
        values_NL = torch.full((len(parts), longest), self._pad_value, device=device)
        rows_NL[:, 0] = self._cls
        for item, (rows_E, bins_E) in enumerate(parts):
            rows_NL[item, 1 : lengths[item]], values_NL[item, 1 : lengths[item]] = rows_E, bins_E.float()
        real_NL = None
        if min(lengths) < longest:
            real_NL = torch.arange(longest, device=device) < torch.tensor(lengths, device=device)[:, None]
        encoder = self._encoder.to(device)
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=self._precision == "bfloat16"):
            z_NLD = encoder(rows_NL, values_NL, real_NL)
        return [z_LD[1:length].to(self._kind) for z_LD, length in zip(z_NLD, lengths, strict=True)]


def grouped(lengths: Sequence[int], most: int) -> list[list[int]]:
    """Items in groups of like length, each of at most `most` tokens when padded to its longest, or of one item."""
    groups: list[list[int]] = []
    for item in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        # Items come in growing length, so the newest is the longest of its group.
        if groups and (len(groups[-1]) + 1) * lengths[item] <= most:
            groups[-1].append(item)
        else:
            groups.append([item])
    return groups
