"""What a piece costs, counted on what it builds, without memory: for pieces that give no closed form of their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


def counted_params(build: Callable[[], nn.Module]) -> int:
    """Parameters of the module that `build` makes; nothing is allocated."""
    import torch

    with torch.device("meta"):
        return sum(parameter.numel() for parameter in build().parameters())


def counted_flops(run: Callable[[], object]) -> int:
    """FLOPs of the matrix products and fused attentions of one call of `run`, a multiply-add counted twice.

    Args:
        run: builds what it needs and calls it, on the meta device: the one where torch counts fused attention right.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()
