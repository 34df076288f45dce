"""Loss: how wrong a prediction is, as named scalars. B sets, N items of a set."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar

from core.kinds.plugin import Plugin

if TYPE_CHECKING:
    from torch import Tensor


class Loss(Plugin):
    """Scalars of one prediction against one target. Nothing is weighted or summed here: the system does that.

    Laws (`core.testing.loss.LossLaws`): finite and >= 0; 0 where prediction and target agree; padded items change
    neither value nor gradient; a set's share does not depend on its neighbours in the batch.
    """

    KIND: ClassVar[str] = "loss"

    @abstractmethod
    def __call__(self, predicted: Tensor, target: Tensor, real_BN: Tensor) -> dict[str, Tensor]:
        """Named scalar tensors; `predicted` and `target` are (B, N, ...), `real_BN` is bool, False on padding."""
