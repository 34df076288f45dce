"""Parameters and FLOPs without memory: the model is built and run on the meta device."""

from __future__ import annotations

import attrs
import torch
from torch.utils.flop_counter import FlopCounterMode

from core.kinds import Card, System
from core.train.streams import Streams


@attrs.frozen
class Cost:
    """What a model costs before it runs."""

    parameters: int
    flops: int
    """multiply-adds count twice; one training step on one typical batch, forward and backward"""
    by_part: dict[str, int]
    """parameters of each top-level module"""


def measure(system: System, card: Card) -> Cost:
    """Count on meta tensors: there FLOPs of fused attention are right, and nothing is allocated.

    Raises:
        ValueError: the pieces do not fit together (a width that the heads do not divide); no tensor was made.
    """
    with torch.device("meta"):
        model = system.build(card)
        batch = system.example(card)
    with FlopCounterMode(display=False) as counter:
        system.step(model, batch, Streams(0), 0).total().backward()
    parts = {name: sum(p.numel() for p in child.parameters()) for name, child in model.named_children()}
    return Cost(
        sum(p.numel() for p in model.parameters()), counter.get_total_flops(), {k: v for k, v in parts.items() if v}
    )
