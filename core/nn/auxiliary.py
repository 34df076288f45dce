"""Losses that a piece deep inside a model has besides its output: told during the forward pass, heard by the trainer.

A piece calls `tell` in its forward pass; whoever wants the losses runs the pass inside `listen`. The trainer does so in
every training step and adds what it hears to the step's terms, so no layer in between passes anything on. In a pass
that nobody listens to, such as one of an evaluation, nothing is computed and nothing is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

_heard: ContextVar[dict[str, list[Tensor]] | None] = ContextVar("_heard", default=None)


def tell(name: str, loss: Callable[[], Tensor]) -> None:
    """Add a loss to what the listener of this forward pass gets.

    Args:
        name: what it is called in the curves; what several modules tell under one name is summed.
        loss: gives a scalar, weighted already; called only if someone listens.
    """
    heard = _heard.get()
    if heard is not None:
        heard.setdefault(name, []).append(loss())


def heard() -> bool:
    """Whether somebody listens to this forward pass."""
    return _heard.get() is not None


@contextmanager
def listen() -> Iterator[dict[str, Tensor]]:
    """Inside the block `tell` is heard; an inner block keeps what it hears from the outer one.

    Yields:
        name -> the sum of what was told under it; filled when the block ends.
    """
    found: dict[str, Tensor] = {}
    heard: dict[str, list[Tensor]] = {}
    token = _heard.set(heard)
    try:
        yield found
    finally:
        _heard.reset(token)
    for name, (first, *more) in heard.items():
        found[name] = sum(more, first)
