"""Laws of one stream's times. B sets."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from plugins.shared.shift import shifted
from plugins.times.shared import BELOW_ONE, uniform

Law = Literal["uniform", "logit_normal"]


def drawn(law: Law, mean: float, sd: float, count: int, generator: torch.Generator, *, stratified: bool) -> Tensor:
    """Times (B,) float32 in [0, 1): uniform, or sigmoid(mean + sd n) of a standard normal n.

    Esser et al. 2024 (arXiv:2403.03206, section 3.1) for the second. Stratified, it is the law's quantiles that are
    spread evenly over the batch.
    """
    u_B = uniform(count, generator, stratified=stratified)
    if law == "uniform":
        return u_B
    # Quantiles in float64: in float32 the outermost ones are infinite.
    normal_B = torch.special.ndtri(u_B.double().clamp(min=2.0**-26))
    return torch.sigmoid(mean + sd * normal_B).float().clamp(max=BELOW_ONE)


def warped(t_B: Tensor, shift: float) -> Tensor:
    """As `shifted`, times that are not clean staying so in single precision."""
    return shifted(t_B, shift).clamp(max=BELOW_ONE)


def leader(streams: tuple[str, ...], first: str) -> str:
    """The stream that comes first: the one that was named, else the last.

    Raises:
        ValueError: there is none of that name.
    """
    if first and first not in streams:
        raise ValueError(f"first = {first!r} is no stream of this model, which has {', '.join(streams)}")
    return first or streams[-1]
