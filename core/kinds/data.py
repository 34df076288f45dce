"""Data: what a model is trained and judged on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import attrs

from core.errors import UserError
from core.kinds.plugin import Plugin

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from torch import Tensor

    from core.train.streams import Streams


@attrs.frozen(kw_only=True)
class Card:
    """What a data set is, without a tensor. `sizes` are whole numbers that a system builds its network from."""

    name: str
    sizes: Mapping[str, int]
    splits: Mapping[str, int]
    """items in each split"""
    fingerprint: str
    """SHA-256 over content and preparation: equal exactly when the numbers a model sees are equal"""
    facts: Mapping[str, Any] = attrs.field(factory=dict)
    """what a report tells of the data: sections, transforms, how the split was made and what it leaks"""


@attrs.frozen
class Batch:
    """Padded sets of items, every field (B, N, ...)."""

    fields: dict[str, Tensor]
    real_BN: Tensor
    """bool, False on padding"""
    units: tuple[str, ...]
    """the unit of each set (its section)"""

    def to(self, device: Any) -> Batch:
        return Batch({k: v.to(device) for k, v in self.fields.items()}, self.real_BN.to(device), self.units)


class Split(ABC):
    """One split of a source.

    Batches are addressed by (epoch, index), so that the exact state of a loader is one number and the order never
    depends on how many numbers a model drew.
    """

    @abstractmethod
    def batches(self, epoch: int) -> int:
        """How many batches an epoch has."""

    @abstractmethod
    def batch(self, epoch: int, index: int) -> Batch:
        """One training batch; over an epoch every item comes exactly once."""

    def share(self, epoch: int, rank: int = 0, ranks: int = 1, worker: int = 0, workers: int = 1) -> range:
        """The batches of an epoch that one worker of one rank reads; all shares together are every batch once.

        Shares are runs, so that whoever streams from files opens few of them; their lengths differ by one at most.

        Raises:
            ValueError: a rank or a worker that there is not.
        """
        if not (0 <= rank < ranks and 0 <= worker < workers):
            raise ValueError(f"rank {rank} of {ranks}, worker {worker} of {workers}: both count from 0")
        batches, mine, all_ = self.batches(epoch), rank * workers + worker, ranks * workers
        return range(batches * mine // all_, batches * (mine + 1) // all_)

    @abstractmethod
    def units(self) -> Iterator[Batch]:
        """Every unit once, whole and in a fixed order, as batches of one set: what evaluation reads."""


class Source(ABC):
    """An opened data set."""

    @abstractmethod
    def describe(self) -> Card:
        """Sizes, splits and fingerprint."""

    @abstractmethod
    def split(self, name: str, streams: Streams) -> Split:
        """`train`, `valid` or `test`; `streams` keys the order of batches."""

    @abstractmethod
    def names(self, what: str) -> tuple[str, ...]:
        """The names behind codes or columns, such as `genes` or `cell_types`; empty where there are none.

        Raises:
            KeyError: the source has nothing of that name.
        """

    @abstractmethod
    def restore(self, field: str, values: np.ndarray) -> np.ndarray:
        """A field in model units (N, ...) back in the units of the input."""

    @abstractmethod
    def oracle(self, unit: Batch) -> dict[str, np.ndarray]:
        """For one whole unit, the best prediction of each field (N, ...) in model units that the other fields allow.

        Only a simulator that knows its own truth can say; empty otherwise. Reports print its score as the ceiling.
        """

    def preparation(self) -> dict[str, Any]:
        """What another file's items are prepared with, as plain JSON; a run keeps it, so that it outlives the data.

        Empty: there is no other file for data of this kind.
        """
        return {}

    def arranged(self, preparation: Mapping[str, Any]) -> Source:
        """These items with their columns as those of a run, where they differ from the run's in that order alone.

        Args:
            preparation: of the run's data.

        Raises:
            UserError: the items, or what is known of them, are others; half a sentence on what differs.
        """
        raise UserError("their content or preparation differs")


class Items(ABC):
    """Items of a file that was no part of training, prepared as the training items were."""

    @property
    @abstractmethod
    def known(self) -> frozenset[str]:
        """The fields that the file holds; the others of a batch are blank."""

    @property
    @abstractmethod
    def notes(self) -> tuple[str, ...]:
        """Sentences on how the file differs from the training data: what is missing, what is left out."""

    @abstractmethod
    def units(self) -> Iterator[Batch]:
        """Every unit once, whole, as batches of one set; the field `index` (1, N) is the item's row in the file."""

    @abstractmethod
    def save(self, path: Path, made: Mapping[str, np.ndarray], said: Mapping[str, Any], *, fresh: bool) -> None:
        """Write the items with what was made for them, whole or not at all, in the file's own format and units.

        Args:
            path: the file to write.
            made: by field, draws (K, n, F) in model units in the order of the file's rows; of `embedding` one draw.
            said: who made it: run, command, version, mode. Plain texts and numbers.
            fresh: the items are new ones, and not the file's with a field filled in.

        Raises:
            UserError: the path cannot be written.
        """


class Data(Plugin):
    """Where data come from.

    Laws (`core.testing.data.DataLaws`): splits are disjoint and cover everything; one epoch holds each item once;
    `batch(e, i)` is a function of seed, epoch and index alone; the fingerprint is stable, and changes with content.
    """

    KIND: ClassVar[str] = "data"
    applied_by: ClassVar[tuple[str, ...]] = ()
    """fields that act when another file is shown to a trained model (`like`); the others may not be said then"""

    @abstractmethod
    def open(self) -> Source:
        """Read or simulate.

        Raises:
            UserError: a missing or unreadable file, or content that breaks the contract, in one sentence that names
                the field and the fix.
        """

    def like(self, path: Path, preparation: Mapping[str, Any], needs: Collection[str]) -> Items:
        """Items of another file, prepared with what `Source.preparation` of the training data told.

        Args:
            path: the file.
            preparation: of the training data, which need not be there any more.
            needs: fields that the file must hold.

        Raises:
            UserError: this kind of data reads no other file, or the file cannot be used; one sentence.
        """
        raise UserError(f"data of kind {type(self).__name__} cannot read another file for a trained model")

    def ending(self, path: Path) -> str:
        """How the name of a file ends that `Items.save` writes for the items of another: as that one's by default."""
        return path.suffix
