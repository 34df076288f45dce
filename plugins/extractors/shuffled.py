"""Latents of another item: the control for what latents are worth. N items, G columns, K chosen ones, M kept items."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import final

import numpy as np
import torch
from torch import Tensor

from core.errors import UserError
from core.kinds.extractor import Extractor, Fitted, Latents
from core.params import knob, params, slot
from core.train.streams import Streams, stream_seed
from plugins.extractors._columns import ascending, blocks, checked, keys, marks, named, numbers


@final
@params
class Shuffled(Extractor):
    """Each item gets the latents that another extractor gives to a training item drawn for it.

    Values, channels and coverage keep the law that they have over training items, and every tie between a latent and
    its item is cut: what a model gains from these latents it does not gain from knowing them.

    Items stand on a ring in the order of a keyed hash of their content, and each gets the latents of the next training
    item. On the training items that are kept this is a permutation in which none stays where it is, and it is a
    function of the item alone: the same at every epoch, in every batch, and for items that were never seen.
    """

    of: Extractor = slot("pca", "whose latents are dealt out")
    bank: int = knob(4096, "training items that are kept, at most; a run's state holds their values", ge=64)

    @property
    def dense(self) -> bool:
        return True

    @property
    def relative(self) -> bool:
        return self.of.relative

    @property
    def width(self) -> int:
        return self.of.width

    def vocabulary(self) -> frozenset[str] | None:
        return self.of.vocabulary()

    def fingerprint(self) -> str:
        return self.of.fingerprint()

    def fit(self, values_NG: np.ndarray, names: Sequence[str], streams: Streams, device: str = "cpu") -> Ring:
        known = named(names)
        inner = self.of.fit(checked(values_NG, known), known, streams, device)
        order = ascending(known)
        key = stream_seed("extractor:shuffled", streams.seed)
        places_N = np.concatenate(
            [
                _places(np.ascontiguousarray(values_NG[rows][:, order], np.float32), sorted(known), key)
                for rows in blocks(*values_NG.shape)
            ]
        )
        # The lowest places of a hash are a draw without order; equal items stand at one place.
        places_M, rows_M = (array[: self.bank] for array in np.unique(places_N, return_index=True))
        return Ring(inner, key, places_M, np.ascontiguousarray(values_NG[rows_M][:, order], np.float32))

    def restore(self, state: Mapping[str, np.ndarray], names: Sequence[str] | None = None) -> Ring:
        try:
            filled, at, ends, places_M, key = (
                np.asarray(state[f"ring.{part}"]) for part in ("values", "columns", "ends", "places", "key")
            )
        except KeyError as error:
            raise UserError(f"the kept statistics lack {error}: they are not of this extractor") from None
        inner = self.of.restore({k.removeprefix("of."): v for k, v in state.items() if k.startswith("of.")}, names)
        values_MG = np.zeros((len(places_M), len(inner.names)), np.float32)
        values_MG[np.repeat(np.arange(len(places_M)), np.diff(ends, prepend=0)), at] = filled
        return Ring(inner, int(key[0]), places_M, values_MG)


@final
class Ring(Fitted):
    """Training items on a ring, and the extractor whose latents are dealt out."""

    def __init__(self, inner: Fitted, key: int, places_M: np.ndarray, values_MG: np.ndarray) -> None:
        self.names, self.width, self.std = inner.names, inner.width, inner.std
        self._inner, self._key, self._places_M, self._values_MG = inner, key, places_M, values_MG
        self._order = ascending(inner.names)
        self._back = np.argsort(self._order)

    def __call__(self, values_NG: Tensor, columns_K: Tensor | None = None) -> Latents:
        if values_NG.ndim != 2 or values_NG.shape[1] != len(self.names):
            raise ValueError(f"values must be (N, {len(self.names)}), got {tuple(values_NG.shape)}")
        given_NG = values_NG.detach().float().cpu().numpy()[:, self._order]
        if not np.isfinite(given_NG).all():
            raise ValueError("values must be finite; an extractor was given NaN or infinity")
        places_N = _places(given_NG, sorted(self.names), self._key)
        next_N = np.searchsorted(self._places_M, places_N, side="right") % len(self._places_M)
        others_NG = torch.from_numpy(self._values_MG[next_N][:, self._back]).to(values_NG.device)
        return self._inner(others_NG, columns_K)

    def state(self) -> dict[str, np.ndarray]:
        row_E, at_E = np.nonzero(self._values_MG)
        return {
            "ring.key": np.array([self._key]),
            "ring.places": self._places_M.copy(),
            "ring.ends": np.cumsum(np.bincount(row_E, minlength=len(self._places_M))),
            "ring.columns": at_E.astype(np.int32),
            "ring.values": self._values_MG[row_E, at_E],
            **{f"of.{name}": array for name, array in self._inner.state().items()},
        }


def _places(values_NG: np.ndarray, names: Sequence[str], key: int) -> np.ndarray:
    """Where items (sorted columns) stand on the ring, int64."""
    return numbers(keys(values_NG, marks(names), f"ring:{key}"))
