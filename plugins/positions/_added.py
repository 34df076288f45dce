"""What positions that read coordinates have in common. B batch, N queries or sources, P axes of space, D width."""

from __future__ import annotations

import torch
from torch import Tensor

from core.kinds.position import Places


def coordinates(places: Places, axes: int, who: str) -> Tensor:
    """Coordinates (B, N, P), zeros on padding.

    Raises:
        ValueError: the data give none, or of another number of axes.
    """
    place_BNP = places.place_BNP
    if place_BNP is None:
        raise ValueError(f"position {who} needs coordinates of the tokens, and this system gives attention none")
    if place_BNP.shape[-1] != axes:
        raise ValueError(
            f"position {who} is set to {axes} axes and the tokens have {place_BNP.shape[-1]}: "
            f"set position.axes = {place_BNP.shape[-1]}"
        )
    return place_BNP if places.real_BN is None else torch.where(places.real_BN[..., None], place_BNP, 0.0)
