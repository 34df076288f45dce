"""Loss: how wrong something is, as named scalars. One contract for each thing that a loss may read.

B sets, N and M items, D width, F features.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

import attrs
from torch import nn

from core.kinds.plugin import Plugin

if TYPE_CHECKING:
    from torch import Tensor

Reads = Literal["values", "scores", "rankings", "views", "samples", "features", "weights"]


@attrs.frozen(kw_only=True)
class LossFacts:
    """What a loss with a state needs to know before the first batch; the rest takes no notice of it."""

    items: int | None = None
    """items of the training split, numbered from 0; `ScoreLoss` modules are told these numbers"""
    matrices: tuple[tuple[int, int], ...] = ()
    """shapes of the matrices that a `WeightLoss` will be given, in their order"""


class Loss(Plugin):
    """Named scalars, float32 or wider. Nothing is weighted or summed here: the system does that.

    A loss inherits from one of the families below, which says what it is called with; `reads` is that in one word.
    Where a family has padding, its content is never read. Outside `ValueLoss`, infinite or very large numbers give
    finite values and gradients, and a batch in which nothing can be compared (no item, one item, no positive beside
    the negatives) gives 0 with a gradient of 0.

    `loss(...)` is a pure function. A system calls what `build` makes, so that a loss may keep running averages,
    learn numbers of its own or be another function in training: laws hold for both (`core.testing.loss`,
    `core.testing.losses`).
    """

    KIND: ClassVar[str] = "loss"
    reads: ClassVar[Reads]
    nonnegative: ClassVar[bool] = True
    """whether `loss(...)` is never below 0; a module in training may be"""
    shift_free: ClassVar[bool] = False
    """whether adding a constant to all scores changes nothing, so that it says nothing of calibration"""
    swap_safe: ClassVar[bool] = False
    """whether swapping the scores of a positive and of a negative above it never raises the loss"""

    def build(self, facts: LossFacts) -> nn.Module:
        """A module with the loss's own call; a loss with a state or with numbers to learn replaces this one.

        Raises:
            ValueError: `facts` lack what the state needs.
        """
        return PureLoss(self)


class PureLoss(nn.Module):
    """The module of a loss without a state: it calls the loss."""

    def __init__(self, loss: Loss) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, *read: Tensor | Sequence[Tensor] | None) -> dict[str, Tensor]:
        """The terms of the loss; arguments are those of the family, by position."""
        return self.loss(*read)  # type: ignore[operator]  # the families differ in what they are called with


class ValueLoss(Loss):
    """One prediction against one target, value by value; 0 where they agree.

    Laws (`core.testing.loss.LossLaws`): finite and >= 0; 0 where prediction and target agree; padded items change
    neither value nor gradient; a set's share does not depend on its neighbours in the batch; the gradient of the
    prediction agrees with finite differences; `pose_free` is true.
    """

    reads = "values"
    pose_free: ClassVar[bool] = False
    """whether turning, mirroring or shifting a set of predicted places changes nothing"""

    @abstractmethod
    def __call__(self, predicted: Tensor, target: Tensor, real_BN: Tensor) -> dict[str, Tensor]:
        """Named scalar tensors; `predicted` and `target` are (B, N, ...), `real_BN` is bool, False on padding."""


class ScoreLoss(Loss):
    """Scores of items that are positive or negative: a classifier's or a ranking's loss over one batch.

    Laws (`core.testing.losses.ScoreLossLaws`): those of all item losses, and the promises `shift_free` and `swap_safe`.
    """

    reads = "scores"

    @abstractmethod
    def __call__(
        self, scores_N: Tensor, positive_N: Tensor, real_N: Tensor, items_N: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Named scalar tensors.

        Args:
            scores_N: logits, higher for what is more likely positive.
            positive_N: bool.
            real_N: bool, False on padding.
            items_N: int64, the number of each item in its split; read only by modules that keep a state an item.
        """


class RankingLoss(Loss):
    """Two scorings of the same items: how far the orders that they imply differ, without labels.

    Laws (`core.testing.losses.RankingLossLaws`): symmetric; 0 where the scorings agree up to a constant, above 0
    elsewhere; a constant added to either changes nothing.
    """

    reads = "rankings"

    @abstractmethod
    def __call__(self, first_N: Tensor, second_N: Tensor, real_N: Tensor) -> dict[str, Tensor]:
        """Named scalar tensors; `first_N` and `second_N` are logits of the same items, `real_N` is bool."""


class ViewLoss(Loss):
    """Two embeddings of each item, which should find each other among those of the other items.

    Laws (`core.testing.losses.ViewLossLaws`): symmetric; lower where each item's views agree than where they were
    dealt at random.
    """

    reads = "views"

    @abstractmethod
    def __call__(self, first_ND: Tensor, second_ND: Tensor, real_N: Tensor) -> dict[str, Tensor]:
        """Named scalar tensors; row i of both arrays belongs to item i, `real_N` is bool, False on padding."""


class SampleLoss(Loss):
    """Two samples, in groups: how far the law of the one is from the law of the other, group by group.

    Laws (`core.testing.losses.SampleLossLaws`): only rows of the same group are compared, and no row is paired with
    another; a far shift of one sample costs more than none; the gradient reaches the prediction alone.
    """

    reads = "samples"

    def enough(self) -> int:
        """How many rows a group must have on both sides to count."""
        return 1

    @abstractmethod
    def __call__(
        self, predicted_NF: Tensor, target_MF: Tensor, predicted_group_N: Tensor, target_group_M: Tensor
    ) -> dict[str, Tensor]:
        """Named scalar tensors.

        Args:
            predicted_NF: rows drawn from the model.
            target_MF: rows of the data; their number may be another.
            predicted_group_N: int64, the group (condition) of each row; below 0 for a row that does not count.
            target_group_M: the same for the target.
        """


class FeatureLoss(Loss):
    """Features of a batch of items and how they vary over it, without target.

    Laws (`core.testing.losses.FeatureLossLaws`): a constant vector added to all items changes nothing, nor does the
    order of the features.
    """

    reads = "features"

    @abstractmethod
    def __call__(self, features_ND: Tensor, real_N: Tensor) -> dict[str, Tensor]:
        """Named scalar tensors; `real_N` is bool, False on padding."""


class WeightLoss(Loss):
    """Weight matrices of a model, whatever the batch.

    Laws (`core.testing.losses.WeightLossLaws`): turning the space of the inputs changes nothing, nor does another order
    of a matrix's outputs; matrices of zeros cost nothing.
    """

    reads = "weights"

    @abstractmethod
    def __call__(self, weights: Sequence[Tensor]) -> dict[str, Tensor]:
        """Named scalar tensors; each weight is (outputs, inputs), as `nn.Linear.weight` is."""
