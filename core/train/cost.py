"""Parameters and FLOPs without memory: the model is built and run on the meta device."""

from __future__ import annotations

import os
import re
import traceback

import attrs
import torch
from torch.utils.flop_counter import FlopCounterMode

from core.choices import Resolved
from core.errors import UserError
from core.kinds import Card, System
from core.kinds.ffn import RoutedLayer
from core.train.streams import Streams

BYTES = 16
"""of a parameter in training: its float32 weight, its gradient and the two moments of AdamW"""


@attrs.frozen(kw_only=True)
class Cost:
    """What a model costs before it runs."""

    parameters: int
    flops: int
    """multiply-adds count twice; one training step on one typical batch, forward and backward"""
    by_part: dict[str, int]
    """parameters of each top-level module"""
    active: int
    """parameters that one token uses: experts that do not serve it are left out"""


def measure(system: System, card: Card, flops: bool = True) -> Cost:
    """Count on meta tensors: there FLOPs of fused attention are right, and nothing is allocated.

    Args:
        system: with its pieces.
        card: of the data.
        flops: whether a step is gone through; without, they read 0 and the count takes milliseconds.

    Raises:
        ValueError: the pieces do not fit together (a width that the heads do not divide); no tensor was made.
    """
    with torch.device("meta"):
        model = system.build(card)
        batch = system.example(card) if flops else None
    with FlopCounterMode(display=False) as counter:
        if batch is not None:
            system.step(model, batch, Streams(0), 0).total().backward()
    parts = {name: sum(p.numel() for p in child.parameters()) for name, child in model.named_children()}
    whole = sum(p.numel() for p in model.parameters())
    return Cost(
        parameters=whole,
        flops=counter.get_total_flops(),
        by_part={k: v for k, v in parts.items() if v},
        active=whole - sum(module.idle() for module in model.modules() if isinstance(module, RoutedLayer)),
    )


def counted(resolved: Resolved, card: Card, flops: bool = True) -> Cost:
    """As `measure` of the system chosen, with what cannot be built told to the user.

    Raises:
        UserError: the pieces do not fit together, or nothing can hold a model of this size.
    """
    try:
        return measure(resolved.root.system, card, flops)
    except ValueError as error:
        path = _blamed(resolved, error)
        piece = f"{path} {resolved.settings[path].value} ({resolved.settings[path].origin}): " if path else ""
        raise UserError(
            f"these pieces do not fit together: {piece}{error}{_named(resolved, path, str(error))}"
        ) from None
    except UserError as error:
        path = _blamed(resolved, error)
        raise UserError(f"{error} ({resolved.sayers(path)})" if path else str(error)) from None
    except (RuntimeError, OverflowError) as error:
        raise UserError(f"a model of this size cannot be made: {error}") from None


def _blamed(resolved: Resolved, error: Exception) -> str:
    """Where the innermost piece stands that was at work when the error was raised; empty where that was none."""
    at_work = [frame.f_locals.get("self") for frame, _ in traceback.walk_tb(error.__traceback__)]
    for piece in reversed([getattr(one, "plugin", one) for one in at_work]):
        for path, own in resolved.pieces.items():
            setting = resolved.settings.get(path)
            if own is piece and setting is not None and setting.field.role == "slot" and not setting.field.inline:
                return path
    return ""


def _named(resolved: Resolved, piece: str, error: str) -> str:
    """` (width = 20 from CLI --width, attention.heads = 8 from default of Softmax)`: the values that an error names, of
    the piece and of the whole, and who gave them."""
    words = {word.rpartition(".")[2] for word in re.findall(r"[a-z][\w.]*", error)}
    numbers = {*re.findall(r"\d+", error.partition(";")[0])}
    told = []
    for path, setting in resolved.settings.items():
        owner = max((at for at in resolved.pieces if path.startswith(f"{at}.")), key=len, default="")
        mine = owner in ("", piece) and setting.field.role == "knob"
        if mine and path.rpartition(".")[2] in words and str(setting.value) in numbers:
            told.append(f"{path} = {setting.value} from {setting.origin}")
    return f" ({', '.join(told)})" if told else ""


def refuse_too_large(cost: Cost, device: torch.device) -> None:
    """Refuse a model whose parameters alone exceed the device's memory, before any of it is asked for.

    Raises:
        UserError: it can never be trained here.
    """
    needed, present = BYTES * cost.parameters, memory_of(device)
    if present is None or needed <= present:
        return
    part, largest = max(cost.by_part.items(), key=lambda item: item[1], default=("the model", cost.parameters))
    raise UserError(
        f"a model of this size cannot be made: {cost.parameters:,} parameters need {needed / 2**30:,.1f} GiB for "
        f"weights, gradients and optimiser, and this {'GPU' if device.type == 'cuda' else 'machine'} has "
        f"{present / 2**30:,.1f}; choose smaller pieces, most of it ({largest / cost.parameters:.0%}) is {part}"
    )


def memory_of(device: torch.device) -> int | None:
    """Bytes of memory that a device has in all, used or not; None where the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None
