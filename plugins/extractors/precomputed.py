"""Latents that were computed elsewhere and stand in an HDF5 file. N items, M items of the file, G columns, D width."""

from __future__ import annotations

import functools
import os
import secrets
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, final

import attrs
import h5py
import numpy as np
import torch
from torch import Tensor

from core.errors import UserError
from core.files import sync_file, sync_folder
from core.kinds.extractor import Extractor, Latents
from core.params import knob, params
from core.train.streams import Streams
from plugins.extractors._columns import blocks, checked, keys, marks, named, numbers, packed, unpacked
from plugins.extractors._content import content_of, place
from plugins.extractors._normalised import Normalised, Raw, kept_names, normalised, raw_state, restored


@final
@params
class Precomputed(Extractor):
    """Latents from a file with datasets `names` (G,), `values` (M, G), `latents` (M, G, D), perhaps `covered` (M, G).

    An item is found by its values, which must be those of the file to the last bit of float32: what an extractor is
    given is what `values` must hold. Without `covered`, the entries that are not 0 are. `write` makes such a file. The
    columns may come in any order; an item is looked up by those that the file has, and others are not covered. Latents
    are normalised as those of other extractors are.
    """

    file: str = knob(attrs.NOTHING, "the HDF5 file; its content counts for a run, not its place", identity=False)
    fitted_on: int | None = knob(
        4096, "training items that means and deviations are taken over, drawn at random; none: all", ge=64
    )
    target_std: float | None = knob(None, "standard deviation of each channel; none: that of training values", gt=0.0)

    @property
    def dense(self) -> bool:
        with _opened(self._path) as file:
            return "covered" in file

    @property
    def width(self) -> int:
        with _opened(self._path) as file:
            return int(file["latents"].shape[2])

    def vocabulary(self) -> frozenset[str]:
        with _opened(self._path) as file:
            return frozenset(_names(file))

    def fingerprint(self) -> str:
        with _opened(self._path):
            return content_of(self._path)

    def fit(self, values_NG: np.ndarray, names: Sequence[str], streams: Streams, device: str = "cpu") -> Normalised:
        """Means and deviations of the latents of the items.

        Raises:
            UserError: see `Extractor.fit`; or the file cannot be used, or lacks an item.
        """
        known = named(names)
        checked(values_NG, known)
        raw = Stored(self._path, sorted(known), self.fingerprint())
        return normalised(raw, values_NG, known, self.target_std, streams=streams, most=self.fitted_on, device=device)

    def restore(self, state: Mapping[str, np.ndarray], names: Sequence[str] | None = None) -> Normalised:
        there, given = kept_names(state, names)
        kept, here = unpacked(raw_state(state, "fingerprint")), self.fingerprint()
        if kept != here:
            raise UserError(
                f"the kept statistics are of another file: it had SHA-256 {kept[:16]}, {self.file} has {here[:16]}"
            )
        return restored(Stored(self._path, there, here), state, given)

    @property
    def _path(self) -> Path:
        return place(self.file)


@final
class Stored(Raw):
    """The items of a file, found by their values."""

    def __init__(self, path: Path, names: Sequence[str], fingerprint: str) -> None:
        self._path, self._fingerprint = path, fingerprint
        with _opened(path) as file:
            there = {name: place for place, name in enumerate(_names(file))}
            if not any(name in there for name in names):
                raise UserError(f"{path} has none of the {len(names)} columns, such as {names[0]!r}")
            self.width = int(file["latents"].shape[2])
            self._columns_G = np.array([there.get(name, -1) for name in names])
            self._known_G = self._columns_G >= 0
            self._marks = marks([name for name in names if name in there])
            values, known = file["values"], self._columns_G[self._known_G]
            found = [
                self._keys(np.asarray(values[rows], np.float32)[:, known])
                for rows in blocks(len(values), values.shape[1])
            ]
        self._key_M, self._row_M = np.unique(np.concatenate(found), return_index=True)

    def __call__(self, values_NG: Tensor, columns_K: Tensor) -> Latents:
        columns = columns_K.cpu().numpy()
        chosen_K, known_K = self._columns_G[columns], self._known_G[columns]
        z_NKD = np.zeros((len(values_NG), len(chosen_K), self.width), np.float32)
        covered_NK = (values_NG[:, columns_K] != 0).cpu().numpy() & known_K
        if len(values_NG):
            rows = self._rows(values_NG)
            with _opened(self._path) as file:
                for item, row in enumerate(rows):
                    z_NKD[item] = file["latents"][row][chosen_K]
                    if "covered" in file:
                        covered_NK[item] = file["covered"][row][chosen_K] & known_K
        if not np.isfinite(z_NKD[covered_NK]).all():
            raise UserError(f"{self._path} holds latents that are not finite")
        device = values_NG.device
        return Latents(torch.from_numpy(z_NKD).to(device), torch.from_numpy(covered_NK).to(device))

    def state(self) -> dict[str, np.ndarray]:
        return {"fingerprint": packed(self._fingerprint)}

    def _keys(self, values_NG: np.ndarray) -> np.ndarray:
        """Of items (N, known columns)."""
        return numbers(keys(values_NG, self._marks, "precomputed"))

    def _rows(self, values_NG: Tensor) -> np.ndarray:
        key_N = self._keys(values_NG.cpu().numpy()[:, self._known_G])
        at_N = np.searchsorted(self._key_M, key_N).clip(max=len(self._key_M) - 1)
        lacking = np.flatnonzero(self._key_M[at_N] != key_N)
        if len(lacking):
            expressed = int((values_NG[lacking[0]] != 0).sum())
            raise UserError(
                f"{self._path} has no latents for {len(lacking)} of {len(key_N)} items, the first of them with "
                f"{expressed} entries that are not 0; its `values` must be what the model is given, to the last bit"
            )
        return self._row_M[at_N]


def write(path: Path, names: Sequence[str], parts: Iterable[tuple[np.ndarray, np.ndarray, np.ndarray | None]]) -> None:
    """Make a file for `Precomputed`, whole or not at all.

    Args:
        path: the file.
        names: of the G columns.
        parts: values (m, G), latents (m, G, D) and bool (m, G) or None, a part after the other; latents are kept as
            float16 where they come so.

    Raises:
        UserError: no parts, parts that do not fit together, or a path that cannot be written.
    """
    known = named(names)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with h5py.File(temporary, "x") as file:
            file.create_dataset("names", data=list(known), dtype=h5py.string_dtype())
            for values, latents, covered in parts:
                _append(file, "values", np.asarray(values, np.float32), (len(known),))
                _append(file, "latents", latents, (len(known), latents.shape[-1]))
                if covered is not None:
                    _append(file, "covered", np.asarray(covered, bool), (len(known),))
            if "values" not in file:
                raise UserError(f"{path}: there are no items to write")
            if "covered" in file and len(file["covered"]) != len(file["values"]):
                raise UserError(f"{path}: some parts say what is covered and others do not")
        sync_file(temporary)
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {os.strerror(error.errno) if error.errno else error}") from None
    finally:
        temporary.unlink(missing_ok=True)


def _append(file: Any, name: str, part: np.ndarray, shape: tuple[int, ...]) -> None:
    wanted = file[name].shape[1:] if name in file else shape
    if part.shape[1:] != wanted:
        raise UserError(f"{name} must be (items, {', '.join(map(str, wanted))}), got {part.shape}")
    if name not in file:
        file.create_dataset(name, data=part, maxshape=(None, *wanted), chunks=(1, *wanted))
        return
    held = len(file[name])
    file[name].resize(held + len(part), axis=0)
    file[name][held:] = part


def _opened(path: Path) -> Any:
    """The file, whose datasets fit together.

    Raises:
        UserError: it is missing, is no HDF5, or lacks a dataset.
    """
    if not path.is_file():
        raise UserError(f"precomputed: there is no file {path}")
    _fits(path, path.stat().st_mtime_ns)
    return h5py.File(path, "r")


@functools.lru_cache(maxsize=64)
def _fits(path: Path, time: int) -> None:
    try:
        file = h5py.File(path, "r")
    except OSError:
        raise UserError(f"precomputed: {path} is no HDF5 file") from None
    with file:
        wanted = {"names": 1, "values": 2, "latents": 3, **({"covered": 2} if "covered" in file else {})}
        for name, axes in wanted.items():
            if not isinstance(file.get(name), h5py.Dataset) or file[name].ndim != axes:
                raise UserError(
                    f"precomputed: {path} has no dataset {name!r} with {axes} axes; `write` makes such a file"
                )
        shape = file["values"].shape
        fits = file["latents"].shape[:2] == shape and ("covered" not in file or file["covered"].shape == shape)
        if not fits or file["names"].shape != shape[1:] or not file["latents"].size:
            raise UserError(
                f"precomputed: {path} has values {shape}, latents {file['latents'].shape} and {len(file['names'])} "
                "names; they must be (M, G), (M, G, D) and G, none of them 0"
            )
        named(_names(file))


def _names(file: Any) -> list[str]:
    return [str(name) for name in file["names"].asstr()[()]]
