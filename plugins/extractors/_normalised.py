"""Raw latents, and what makes them comparable: mean 0 and one standard deviation over covered entries.

N items, G columns, K chosen columns, D width, M covered entries. Columns are sorted by name inside, as told in
`plugins.extractors._columns`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import final

import numpy as np
import torch
from torch import Tensor

from core.errors import UserError
from core.kinds.extractor import Fitted, Latents
from core.train.streams import Streams
from plugins.extractors._columns import ascending, blocks, packed, same_columns, unpacked

FLAT = 1e-6
"""a channel whose standard deviation is below this share of its mean, or of the largest one, counts as constant"""


class Raw(ABC):
    """Latents before they are normalised."""

    width: int

    @abstractmethod
    def __call__(self, values_NG: Tensor, columns_K: Tensor) -> Latents:
        """Latents of items, sorted columns; what is said of an entry that is not covered does not matter."""

    @abstractmethod
    def state(self) -> dict[str, np.ndarray]:
        """What was fitted, sorted columns."""


@final
class Moments:
    """Count, mean and squared deviations of channels, one block after the other (Chan, Golub & LeVeque 1983)."""

    def __init__(self, width: int) -> None:
        self.count = 0
        self.mean_D = np.zeros(width)
        self._squares_D = np.zeros(width)

    def update(self, z_MD: np.ndarray) -> None:
        """Add M vectors."""
        if not len(z_MD):
            return
        wide_MD = z_MD.astype(np.float64)
        mean_D = wide_MD.mean(0)
        squares_D = ((wide_MD - mean_D) ** 2).sum(0)
        total = self.count + len(wide_MD)
        apart_D = mean_D - self.mean_D
        self._squares_D += squares_D + apart_D**2 * (self.count * len(wide_MD) / total)
        self.mean_D += apart_D * (len(wide_MD) / total)
        self.count = total

    @property
    def std_D(self) -> np.ndarray:
        """Population standard deviations."""
        return np.sqrt(self._squares_D / max(self.count, 1))


@final
class Normalised(Fitted):
    """z = (raw - mean) * std / sd of the channel where covered, 0 elsewhere."""

    def __init__(
        self,
        raw: Raw,
        names: tuple[str, ...],
        std: float,
        mean_D: np.ndarray,
        slope_D: np.ndarray,
    ) -> None:
        self.names, self.width, self.std = names, raw.width, std
        self._raw, self._mean_D, self._slope_D = raw, mean_D, slope_D
        order = ascending(names)
        self._order = torch.from_numpy(order)
        self._place = torch.from_numpy(np.argsort(order))

    def __call__(self, values_NG: Tensor, columns_K: Tensor | None = None) -> Latents:
        if values_NG.ndim != 2 or values_NG.shape[1] != len(self.names):
            raise ValueError(f"values must be (N, {len(self.names)}), got {tuple(values_NG.shape)}")
        device = values_NG.device
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            values_NG = values_NG.detach().float()
            if not torch.isfinite(values_NG).all():
                raise ValueError("values must be finite; an extractor was given NaN or infinity")
            place = self._place.to(device)
            columns = place if columns_K is None else place[columns_K.to(device)]
            raw = self._raw(values_NG[:, self._order.to(device)], columns)
            mean_D, slope_D = (torch.from_numpy(x).float().to(device) for x in (self._mean_D, self._slope_D))
            z_NKD = torch.where(raw.covered_NK[..., None], (raw.z_NKD.float() - mean_D) * slope_D, 0.0)
            return Latents(z_NKD, raw.covered_NK)

    def state(self) -> dict[str, np.ndarray]:
        return {
            "names": packed("\n".join(self.names)),
            "std": np.array([self.std]),
            "mean": self._mean_D.copy(),
            "slope": self._slope_D.copy(),
            **{f"raw.{name}": array for name, array in self._raw.state().items()},
        }


def normalised(
    raw: Raw,
    values_NG: np.ndarray,
    names: tuple[str, ...],
    std: float | None,
    *,
    streams: Streams,
    most: int | None = None,
    device: str = "cpu",
) -> Normalised:
    """Fit mean and deviation of each channel in one pass.

    Args:
        raw: what is normalised.
        values_NG: training items.
        names: of the G columns as they come.
        std: wanted standard deviation; None: that of the training values.
        streams: which items are taken where not all are.
        most: items that are looked at, a draw of all; None: all.
        device: where latents are computed.

    Raises:
        UserError: nothing is covered.
    """
    moments, spread = Moments(raw.width), Moments(1)
    rows = np.arange(len(values_NG))
    if most is not None and most < len(rows):
        chosen = torch.randperm(len(rows), generator=streams.generator("extractor:items"))[:most]
        rows = np.sort(chosen.numpy())
    order = ascending(names)
    with torch.no_grad():
        columns = torch.arange(len(names), device=device)
        for part in blocks(len(rows), len(names) * raw.width):
            block_NG = np.ascontiguousarray(values_NG[rows[part]][:, order], dtype=np.float32)
            latents = raw(torch.from_numpy(block_NG).to(device), columns)
            moments.update(latents.z_NKD[latents.covered_NK].cpu().numpy())
            spread.update(block_NG.reshape(-1, 1))
    wanted = float(spread.std_D[0]) if std is None else std
    if not moments.count or not wanted > 0:
        raise UserError(
            "the extractor covers no entry of the training items: all values are 0, or it knows none of the "
            f"{len(names)} column names, such as {names[0]!r}"
        )
    std_D = moments.std_D
    varies_D = std_D > FLAT * np.maximum(np.abs(moments.mean_D), std_D.max())
    slope_D = np.where(varies_D, wanted / np.where(varies_D, std_D, 1.0), 0.0)
    return Normalised(raw, names, wanted, moments.mean_D, slope_D)


def kept_names(state: Mapping[str, np.ndarray], names: Sequence[str] | None) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of the columns in their sorted order, and as they will be given.

    Raises:
        UserError: the state has none, or the given ones are others.
    """
    given = same_columns(unpacked(_entry(state, "names")).split("\n"), names)
    return tuple(sorted(given)), given


def restored(raw: Raw, state: Mapping[str, np.ndarray], names: tuple[str, ...]) -> Normalised:
    """What `Normalised.state` kept.

    Raises:
        UserError: the state is of another width or lacks something.
    """
    mean_D, slope_D, std = (np.asarray(_entry(state, key), np.float64) for key in ("mean", "slope", "std"))
    if not mean_D.shape == slope_D.shape == (raw.width,) or std.shape != (1,):
        raise UserError(
            f"the kept statistics are of an extractor of width {mean_D.size}, and this one has width {raw.width}; give "
            "the parameters that it was fitted with"
        )
    return Normalised(raw, names, float(std[0]), mean_D, slope_D)


def raw_state(state: Mapping[str, np.ndarray], name: str, shape: tuple[int, ...] | None = None) -> np.ndarray:
    """One array of `Raw.state`.

    Raises:
        UserError: it is missing, or of another shape.
    """
    array = _entry(state, f"raw.{name}")
    if shape is not None and array.shape != shape:
        raise UserError(
            f"the kept statistics have {name} of shape {array.shape} where this extractor has {shape}; give the "
            "parameters that it was fitted with"
        )
    return array


def _entry(state: Mapping[str, np.ndarray], key: str) -> np.ndarray:
    if key not in state:
        raise UserError(f"the kept statistics lack {key!r}: they are not of this extractor")
    return state[key]
