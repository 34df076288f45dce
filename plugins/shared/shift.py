"""Times moved towards the data or the noise."""

from __future__ import annotations

from typing import TypeVar

from torch import Tensor

T = TypeVar("T", float, Tensor)


def shifted(t: T, a: float) -> T:
    """t a / (1 + (a - 1) t): towards the data for a > 1, towards the noise for a < 1; 0 and 1 stay.

    Esser et al. 2024 (arXiv:2403.03206, eq. 23, with their time reversed); the inverse has 1 / a.
    """
    return t * a / (1.0 + (a - 1.0) * t)
