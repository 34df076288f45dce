"""A folder of arrays that were expensive to compute. M rows, D width."""

from __future__ import annotations

import io
from pathlib import Path
from typing import final

import numpy as np

from core.errors import UserError
from core.files import write_atomic

GIB = 2**30


@final
class Cache:
    """Arrays by key, one .npy file each, written once and whole.

    Processes may share a folder: a file never changes, as its key names all that decides its content. When the folder
    holds `limit` GiB no more is written. A file or the whole folder may be deleted at any time.
    """

    def __init__(self, folder: Path, limit: float) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"the cache folder {folder} cannot be made: {error.strerror}") from None
        self._folder, self._left = folder, limit * GIB - sum(p.stat().st_size for p in folder.rglob("*.npy"))

    def get(self, key: str, width: int, kind: type[np.floating]) -> np.ndarray | None:
        """An array (M, D), or None where there is none of this key that can be read."""
        try:
            array = np.load(self._path(key), allow_pickle=False)
        except (OSError, ValueError, EOFError):
            return None
        return array if array.dtype == kind and array.ndim == 2 and array.shape[1] == width else None

    def put(self, key: str, array_MD: np.ndarray) -> None:
        """Keep an array, unless the folder is full.

        Raises:
            UserError: the folder cannot be written.
        """
        buffer = io.BytesIO()
        np.save(buffer, array_MD, allow_pickle=False)
        data = buffer.getvalue()
        if len(data) > self._left:
            return
        path = self._path(key)
        try:
            path.parent.mkdir(exist_ok=True)
            write_atomic(path, data)
        except OSError as error:
            raise UserError(f"the cache folder {self._folder} cannot be written: {error.strerror}") from None
        self._left -= len(data)

    def _path(self, key: str) -> Path:
        return self._folder / key[:2] / f"{key}.npy"
