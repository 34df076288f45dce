"""Extractor: frozen features of items. N items, D features."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar

from core.kinds.plugin import Plugin

if TYPE_CHECKING:
    import numpy as np

    from core.kinds.data import Source


class Extractor(Plugin):
    """A fixed map of items to features, fitted on training items only."""

    KIND: ClassVar[str] = "extractor"

    @abstractmethod
    def fit(self, source: Source) -> Extractor:
        """The extractor with what it learned of the training split."""

    @abstractmethod
    def extract(self, values: np.ndarray) -> np.ndarray:
        """Features (N, D) float32 of items (N, ...)."""
