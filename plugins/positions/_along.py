"""Where tokens stand on a line. B batch, N tokens of one side."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from core.kinds.position import Places

Origin = Literal["token", "centre", "genomic"]


def along(places: Places, origin: Origin, unit: float, like: Tensor) -> Tensor:
    """Where tokens stand on a line, (N,) or (B, N) in float64.

    Args:
        places: of one side.
        origin: `token`, the index from the first token; `centre`, the index from the middle of the sample's real
            tokens; `genomic`, the coordinate on a line in units of `unit`.
        unit: of `genomic`, in units of the coordinate (500 base pairs, say).
        like: names the device.

    Raises:
        ValueError: `genomic` without coordinates, or with those of a plane or of space.
    """
    if origin == "genomic":
        if places.place_BNP is None:
            raise ValueError(
                "origin = genomic needs coordinates of the tokens, and the data give none; use token or centre"
            )
        if places.place_BNP.shape[-1] != 1:
            raise ValueError(
                f"origin = genomic goes by one coordinate, and these tokens have {places.place_BNP.shape[-1]}; take a "
                "position that reads them all, such as fourier"
            )
        place_BN = places.place_BNP[..., 0].to(torch.float64) / unit
        return place_BN if places.real_BN is None else torch.where(places.real_BN, place_BN, 0.0)
    index_N = torch.arange(places.count, device=like.device, dtype=torch.float64)
    if origin == "token":
        return index_N
    if places.real_BN is None:
        return index_N - (places.count - 1) / 2
    return index_N - (places.real_BN.sum(1, keepdim=True) - 1) / 2
