"""What is made once for all calls of a solver."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

Kept = dict[str, Any]
"""by name what was made, or another one of a part of the network; a solver's calls share one"""


def once(kept: Kept | None, name: str, make: Callable[[], Tensor]) -> Tensor:
    """What `make` gives; with `kept` it is called the first time and its result is there for later calls."""
    if kept is None:
        return make()
    if name not in kept:
        kept[name] = make()
    return kept[name]


def part(kept: Kept | None, name: str) -> Kept | None:
    """The store of a part of the network."""
    return None if kept is None else kept.setdefault(name, {})
