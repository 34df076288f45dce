"""One time for all streams. B sets."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from core.kinds.time import Time
from core.params import knob, params

if TYPE_CHECKING:
    from torch import Tensor

BELOW_ONE = 1.0 - 2.0**-24
"""the largest float32 below 1; rounding must not turn a noised stream into a clean one"""


@params
class Shared(Time):
    """Every stream of a set is noised to one and the same uniform time.

    The usual choice for a joint model. It never shows the network one stream clean beside another one noised, so what
    it learns of the conditionals is poor: see `Independent`. No stream is ever clean, t < 1.
    """

    stratified: bool = knob(True, "one draw from each of B equal parts of [0, 1), shuffled, in place of B free draws")

    def draw(self, count: int, streams: tuple[str, ...], generator: torch.Generator) -> dict[str, Tensor]:
        t_B = uniform(count, generator, stratified=self.stratified)
        return {name: t_B.clone() for name in streams}


def uniform(count: int, generator: torch.Generator, *, stratified: bool) -> Tensor:
    """Times (B,) float32 in [0, 1), each uniform on its own.

    Stratified, set i gets (p_i + u_i) / B with p a random permutation: a batch covers [0, 1) evenly, which takes the
    spread between batches out of the loss. Kingma et al. 2021 (arXiv:2107.00630) do so with one offset u for all
    sets; with an offset each, two sets of a batch can come as close to each other as free draws.

    Raises:
        ValueError: fewer than one set.
    """
    if count < 1:
        raise ValueError(f"times were asked for {count} sets; a batch has at least one")
    u_B = torch.rand(count, generator=generator, device=generator.device)
    if stratified:
        order_B = torch.randperm(count, generator=generator, device=generator.device)
        u_B = (order_B.double() + u_B.double()).div(count).float()
    return u_B.clamp(max=BELOW_ONE)
