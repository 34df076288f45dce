"""System: slots and data become a task that trains and is judged."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import attrs

from core.errors import UserError
from core.kinds.data import Batch, Card, Source
from core.kinds.plugin import Plugin

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

    from core.train.streams import Streams


@attrs.frozen(kw_only=True)
class Terms:
    """What one training step says: named losses, the weight of each, and statistics to log."""

    losses: dict[str, Tensor]
    """how far predictions are from the truth; the same terms whatever pieces the model holds"""
    weights: dict[str, float]
    """of `losses`; 1 where absent"""
    auxiliary: dict[str, Tensor] = attrs.field(factory=dict)
    """what layers ask for beside (a balanced router), weighted already"""
    stats: dict[str, Tensor] = attrs.field(factory=dict)

    def task(self) -> Tensor:
        """The weighted sum of `losses` alone, which compares between models of different pieces."""
        parts = [value * self.weights.get(name, 1.0) for name, value in self.losses.items()]
        return sum(parts[1:], parts[0])

    def total(self) -> Tensor:
        """The weighted sum that is differentiated."""
        return sum(self.auxiliary.values(), self.task())


@attrs.frozen(kw_only=True)
class Score:
    """One cell of the final table."""

    task: str
    """what was asked: `expression to position`"""
    arm: str
    """`core.score.MODEL`, the name of a baseline, or `core.score.CEILING`"""
    metric: str
    value: float
    higher: bool
    label: str
    units: dict[str, float] = attrs.field(factory=dict)
    """the same score by unit, for paired statistics"""


@attrs.frozen(kw_only=True)
class Evaluation:
    """Scores of model and baselines, sentences for the reader, and arrays that figures are drawn from."""

    scores: tuple[Score, ...]
    notes: tuple[str, ...] = ()
    arrays: dict[str, np.ndarray] = attrs.field(factory=dict)
    groups: dict[str, str] = attrs.field(factory=dict)
    """what kind of test each unit is, by its name (`combo_seen1`); reports break scores down by it"""


@attrs.frozen(kw_only=True)
class Picture:
    """A figure of the report. `draw` returns a matplotlib figure; the caption can be understood without the code."""

    name: str
    title: str
    caption: str
    draw: Callable[[], Any]


class System(Plugin):
    """A trainable task. Its fields are its slots; its file reads like the method section of its paper.

    Laws: what is fitted depends on the training split alone; every parameter of the built model gets a gradient from a
    step; a step is a function of model, batch and streams alone; padding changes no loss; `headline` is one of the
    model's scores; what is generated is a function of the streams, and whatever is embedded is finite.
    """

    KIND: ClassVar[str] = "system"
    trivial: ClassVar[tuple[str, ...]] = ()
    """arms of the evaluation that learn nothing from the data; the best of them is where a scale begins"""
    scaled_by: ClassVar[str] = ""
    """the knob by which a model is made a little larger or smaller, so that arms of a study may cost the same"""
    sampled_by: ClassVar[tuple[str, ...]] = ()
    """fields that act when a trained model is sampled and not before, so that they may be said of a finished run"""

    suggests: ClassVar[Mapping[str, Any]] = {}
    """settings of a run, by flag, that suit the system better than the general defaults; any flag or recipe outranks"""

    @property
    def headline(self) -> str:
        """`task/metric` of the score that a comparison is decided by unless its plan says otherwise."""
        return ""

    @abstractmethod
    def build(self, card: Card) -> nn.Module:
        """The network for data of this card."""

    def fit(self, source: Source, streams: Streams) -> Mapping[str, np.ndarray]:
        """What the model is to know of the training split before its first step, as plain arrays of numbers.

        Statistics, tables, features that stay as they are: a run keeps them beside its checkpoints, and a trained model
        gets them back through `recall`. Nothing by default.

        Args:
            source: of which the split `train` alone is read.
            streams: source of whatever is drawn.
        """
        return {}

    def recall(self, model: nn.Module, fitted: Mapping[str, np.ndarray]) -> None:
        """Give a model that `build` returned, before or after its weights are loaded, what `fit` found.

        Raises:
            UserError: the arrays are of another configuration.
        """
        return

    @abstractmethod
    def example(self, card: Card) -> Batch:
        """A batch of typical shape on the current default device, values unspecified: for shapes and FLOPs."""

    @abstractmethod
    def step(self, model: nn.Module, batch: Batch, streams: Streams, step: int) -> Terms:
        """One forward pass in training; noise and times come from `streams` keyed by `step`."""

    @abstractmethod
    def evaluate(self, model: nn.Module, source: Source, split: str, streams: Streams) -> Evaluation:
        """Scores of the model on a split, with the trivial baselines of the field beside it."""

    @abstractmethod
    def pictures(self, evaluation: Evaluation) -> Iterable[Picture]:
        """The figures that show what the scores mean."""

    def modes(self) -> Mapping[str, tuple[str, ...]]:
        """What a trained model can be asked to make: the name of each mode, and the fields that it must be given."""
        return {}

    def generate(
        self, model: nn.Module, unit: Batch, mode: str, streams: Streams, *, index: int, draws: int, patch: int
    ) -> dict[str, np.ndarray]:
        """Fields (draws, N, F) of the N items of a unit, in model units.

        Args:
            model: trained, in evaluation mode.
            unit: one set, whatever its size; fields that the mode makes are not read.
            mode: one of `modes`.
            streams: all noise, keyed by mode, `index`, draw and patch.
            index: the unit's number.
            draws: how many; 0 asks for the mean that the model predicts, as one draw.
            patch: most items that the model is shown at once; the parts of a larger unit are joined.

        Raises:
            UserError: the system makes nothing.
        """
        raise UserError(f"system {type(self).__name__} cannot be sampled")

    def layers(self) -> Mapping[str, tuple[str, ...]]:
        """Where items can be embedded: the name of each place, the default first, and the fields that it must read."""
        return {}

    def embed(self, model: nn.Module, unit: Batch, layer: str, known: Collection[str], *, patch: int) -> np.ndarray:
        """What a trained model makes of each item at one of its `layers`, (N, D), from clean input.

        Args:
            model: trained, in evaluation mode.
            unit: one set, whatever its size.
            layer: one of `layers`.
            known: fields that are there; the others are treated as unknown.
            patch: most items that the model is shown at once.

        Raises:
            UserError: the system embeds nothing.
        """
        raise UserError(f"system {type(self).__name__} has no embedding")
