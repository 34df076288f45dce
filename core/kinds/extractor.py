"""Extractor: frozen latents of items with named columns. N items, G columns, K chosen columns, D width."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

import attrs

from core.kinds.plugin import Plugin

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from torch import Tensor

    from core.train.streams import Streams


@attrs.frozen
class Latents:
    """A vector for each item at each column."""

    z_NKD: Tensor
    """float32; exactly 0 where not covered"""
    covered_NK: Tensor
    """bool, True where the extractor has something to say"""


class Fitted(ABC):
    """An extractor that knows the training items: a fixed function of one item.

    It is no module, so that a network which holds one neither trains, saves nor moves it.
    """

    names: tuple[str, ...]
    """of the columns, in the order in which values are given"""
    width: int
    std: float
    """standard deviation of each channel over the covered entries of the items that were fitted on; their mean is 0"""

    @abstractmethod
    def __call__(self, values_NG: Tensor, columns_K: Tensor | None = None) -> Latents:
        """Latents of items, on their device, without gradient.

        Args:
            values_NG: the items, in the units of those that were fitted on; leave padding out.
            columns_K: int64, the columns that are wanted, all of them by default. What is said of these columns still
                comes from the whole item.

        Raises:
            ValueError: values of another shape, or not finite.
        """

    @abstractmethod
    def state(self) -> dict[str, np.ndarray]:
        """What was fitted, as plain arrays of numbers, for a checkpoint."""


class Extractor(Plugin):
    """A fixed map of items with named columns to one vector a column, fitted on training items only.

    Laws (`core.testing.extractor.ExtractorLaws`): channels have mean 0 and standard deviation `Fitted.std` over the
    covered entries of the items that were fitted on, or of a draw of at least 64 of them (a channel that does not vary
    is 0), and are exactly 0 elsewhere; unless `dense`, an entry of value 0 is not covered, and who is `relative` is
    `dense`; what an item gets depends on that item alone, not on the order of the columns or on others beside it;
    chosen columns are those columns of the whole; nothing is differentiated, nothing drawn and nothing changed by a
    call; a state that is restored gives the same latents, also for columns in another order.
    """

    KIND: ClassVar[str] = "extractor"

    @property
    def dense(self) -> bool:
        """Whether an entry of value 0 may be covered."""
        return False

    @property
    def relative(self) -> bool:
        """Whether values may be differences from a reference: none is read as a count or as silence.

        Every entry of a known column is covered then. Whoever asks for latents decides which values it shows, the same
        for all items.
        """
        return False

    @property
    @abstractmethod
    def width(self) -> int:
        """Channels of a latent, known before anything is fitted: a network is built from it.

        Raises:
            UserError: the file that tells it is missing or cannot be used.
        """

    @abstractmethod
    def fit(self, values_NG: np.ndarray, names: Sequence[str], streams: Streams, device: str = "cpu") -> Fitted:
        """Learn from the training items, in one pass over their latents.

        Args:
            values_NG: training items and no others.
            names: of the G columns.
            streams: source of whatever is drawn.
            device: where latents are computed.

        Raises:
            UserError: values that are not finite, names that repeat, or nothing to learn from.
        """

    @abstractmethod
    def restore(self, state: Mapping[str, np.ndarray], names: Sequence[str] | None = None) -> Fitted:
        """What `Fitted.state` kept, for columns in the order of `names`; by default in that of the fit.

        Raises:
            UserError: the state is another extractor's, files that it was fitted with have changed, or the names are
                not those of the fit.
        """

    def vocabulary(self) -> frozenset[str] | None:
        """The names of columns that it knows; columns of other names are never covered. None: it takes any."""
        return None
