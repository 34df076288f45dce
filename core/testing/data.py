"""What every data plugin must do. B sets, N items of a set.

class TestMine(DataLaws):
    def make(self, folder: Path) -> Data: ...
    def others(self, folder: Path) -> list[Data]: ...

Items are told apart by the field `index` (B, N): a whole number of its own for each item, -1 on padding.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import attrs
import numpy as np
import pytest
import torch

from core.kinds.data import Batch, Data, Source
from core.train.streams import Streams

SPLITS = ("train", "valid", "test")


def items(batch: Batch) -> list[int]:
    """The items of a batch, padding left out."""
    return batch.fields["index"][batch.real_BN].tolist()


def equal(a: Batch, b: Batch) -> bool:
    """Whether two batches are equal to the last bit."""
    return (
        a.units == b.units
        and torch.equal(a.real_BN, b.real_BN)
        and a.fields.keys() == b.fields.keys()
        and all(torch.equal(a.fields[name], b.fields[name]) for name in a.fields)
    )


def _numpy_state() -> torch.Tensor:
    """A copy of numpy's global generator's state."""
    state = np.random.get_state(legacy=False)["state"]  # noqa: NPY002
    return torch.from_numpy(np.append(state["key"], state["pos"]).astype(np.int64))


class DataLaws(ABC):
    """Laws of `core.kinds.data.Data`; a subclass says what data are judged."""

    drawn: ClassVar[frozenset[str]] = frozenset()
    """fields that are drawn beside an item, in training anew each time (its control cell); in a unit they are fixed"""
    blank: ClassVar[Mapping[str, int]] = {}
    """codes that are not -1 on padding, where another code says that there is nothing"""
    items_alike: ClassVar[bool] = False
    """whether nothing but its unit tells of an item, so that an oracle is nearer its own unit, not its own item"""

    @abstractmethod
    def make(self, folder: Path) -> Data:
        """The data; files, if any, go below `folder`. A second call gives the same."""

    @abstractmethod
    def others(self, folder: Path) -> list[Data]:
        """Data that differ from `make`'s in one number of the content, or in one parameter that changes numbers."""

    @pytest.fixture
    def source(self, tmp_path: Path) -> Source:
        return self.make(tmp_path).open()

    def test_card(self, source: Source) -> None:
        """A card is plain: whole-number sizes, three splits that hold something, facts that JSON can write."""
        card = source.describe()
        assert all(type(size) is int and size >= 0 for size in card.sizes.values())
        assert tuple(card.splits) == SPLITS
        assert all(type(count) is int and count > 0 for count in card.splits.values())
        assert json.loads(json.dumps(card.facts)) == card.facts
        assert card.facts["split"]

    def test_preparation(self, source: Source) -> None:
        """What other items would be prepared with is plain JSON, to the last digit."""
        told = source.preparation()
        assert json.loads(json.dumps(told, allow_nan=False)) == told

    def test_fingerprint(self, tmp_path: Path) -> None:
        """Opening twice gives one card; another content or another preparation gives another fingerprint."""
        card = self.make(tmp_path).open().describe()
        assert card == self.make(tmp_path).open().describe()
        others = [other.open().describe().fingerprint for other in self.others(tmp_path)]
        assert others
        assert len({card.fingerprint, *others}) == 1 + len(others)
        assert all(len(text) == 64 and set(text) <= set("0123456789abcdef") for text in (card.fingerprint, *others))

    def test_splits_divide(self, source: Source) -> None:
        """Splits are disjoint, cover everything, have the sizes the card says, and are the same for every seed."""
        found = {}
        for name in SPLITS:
            found[name], again = ([*map(items, source.split(name, Streams(seed)).units())] for seed in (0, 1))
            assert found[name] == again
        flat = {name: [item for unit in units for item in unit] for name, units in found.items()}
        everything = [item for part in flat.values() for item in part]
        assert len(everything) == len(set(everything))
        assert {name: len(part) for name, part in flat.items()} == dict(source.describe().splits)

    @pytest.mark.parametrize("name", SPLITS)
    def test_epoch(self, source: Source, name: str) -> None:
        """One epoch holds each item of a split exactly once, and no other."""
        split = source.split(name, Streams(3))
        whole = Counter(item for unit in split.units() for item in items(unit))
        for epoch in (0, 1):
            epoch_items = (items(split.batch(epoch, i)) for i in range(split.batches(epoch)))
            assert Counter(item for part in epoch_items for item in part) == whole

    def test_batch_is_addressed(self, tmp_path: Path, source: Source) -> None:
        """A batch is a function of seed, epoch and index alone, whatever was asked before."""
        split = source.split("train", Streams(5))
        places = [(epoch, i) for epoch in (0, 1) for i in range(split.batches(epoch))]
        seen = {place: split.batch(*place) for place in places}
        fresh = self.make(tmp_path).open().split("train", Streams(5))
        torch.manual_seed(99)
        for place in reversed(places):
            assert equal(seen[place], fresh.batch(*place))

    def test_order_is_drawn(self, source: Source) -> None:
        """Epochs and seeds shuffle anew."""

        def order(seed: int, epoch: int) -> list[int]:
            split = source.split("train", Streams(seed))
            return [item for i in range(split.batches(epoch)) for item in items(split.batch(epoch, i))]

        assert len({tuple(order(seed, epoch)) for seed, epoch in ((0, 0), (0, 1), (1, 0))}) == 3

    def test_global_random_state(self, tmp_path: Path) -> None:
        """Opening and reading leave the global generators of torch and numpy as they were."""
        states = [state() for state in (torch.get_rng_state, _numpy_state)]
        source = self.make(tmp_path).open()
        split = source.split("train", Streams(0))
        split.batch(0, 0)
        source.oracle(next(split.units()))
        assert torch.equal(states[0], torch.get_rng_state())
        assert torch.equal(states[1], _numpy_state())

    @pytest.mark.parametrize("index", [-1, None])
    def test_index_is_checked(self, source: Source, index: int | None) -> None:
        """A batch beyond an epoch's end is refused."""
        split = source.split("train", Streams(0))
        with pytest.raises(IndexError, match="there are"):
            split.batch(0, split.batches(0) if index is None else index)

    def test_split_name_is_checked(self, source: Source) -> None:
        """An unknown split is refused, and the error names those there are."""
        with pytest.raises(ValueError, match="train, valid, test"):
            source.split("dev", Streams(0))

    @pytest.mark.parametrize("name", SPLITS)
    def test_batch_is_padded(self, source: Source, name: str) -> None:
        """Fields are (B, N, ...) and finite; numbers are float32 and 0 on padding, codes int64 and -1 there."""
        split = source.split(name, Streams(0))
        for batch in (split.batch(0, split.batches(0) - 1), next(split.units())):
            assert batch.real_BN.dtype == torch.bool
            assert batch.real_BN.any(dim=1).all()
            assert batch.real_BN.any(dim=0).all()
            assert len(batch.units) == len(batch.real_BN)
            for field_name, field in batch.fields.items():
                assert field.shape[:2] == batch.real_BN.shape
                assert field.dtype in (torch.float32, torch.int64)
                assert torch.isfinite(field).all()
                nothing = 0 if field.is_floating_point() else self.blank.get(field_name, -1)
                assert (field[~batch.real_BN] == nothing).all()

    @pytest.mark.parametrize("name", SPLITS)
    def test_units(self, source: Source, name: str) -> None:
        """Units come one by one, whole and unpadded, each under a name of its own, in one order, equal each time."""
        units = list(source.split(name, Streams(0)).units())
        assert len({unit.units for unit in units}) == len(units)
        for unit, again in zip(units, source.split(name, Streams(1)).units(), strict=True):
            assert len(unit.units) == 1
            assert unit.real_BN.all()
            assert equal(unit, again)

    def test_sets_stay_within_units(self, source: Source) -> None:
        """The items of a training set all belong to the unit that it names."""
        split = source.split("train", Streams(0))
        home = {item: unit.units[0] for unit in split.units() for item in items(unit)}
        for i in range(split.batches(0)):
            batch = split.batch(0, i)
            for unit, index_N, real_N in zip(batch.units, batch.fields["index"], batch.real_BN, strict=True):
                assert {home[item] for item in index_N[real_N].tolist()} == {unit}

    def test_an_item_is_one_thing(self, source: Source) -> None:
        """An item has the same values in a training batch as in its unit."""
        split = source.split("train", Streams(0))
        batch = split.batch(0, 0)
        table: dict[int, tuple[Batch, int]] = {}
        for unit in split.units():
            table |= {item: (unit, place) for place, item in enumerate(items(unit))}
        for b, n in batch.real_BN.nonzero().tolist():
            unit, place = table[int(batch.fields["index"][b, n])]
            for name in batch.fields.keys() - self.drawn:
                assert torch.equal(batch.fields[name][b, n], unit.fields[name][0, place])

    def test_names_are_checked(self, source: Source) -> None:
        """Names of something the source does not have are refused."""
        with pytest.raises(KeyError, match="no such thing"):
            source.names("no such thing")

    def test_restore(self, source: Source) -> None:
        """Restoring a field keeps its shape, is finite and affine; a field without a scale is refused."""
        unit = next(source.split("test", Streams(0)).units())
        for name, field in unit.fields.items():
            if not field.is_floating_point():
                continue
            values = field[0].numpy().astype(np.float64)
            back, blank = source.restore(name, values), source.restore(name, np.zeros_like(values))
            assert back.shape == values.shape
            assert np.isfinite(back).all()
            np.testing.assert_allclose(
                source.restore(name, 2 * values) - blank, 2 * (back - blank), rtol=1e-6, atol=1e-6
            )
        with pytest.raises(ValueError, match="scale"):
            source.restore("no such field", np.zeros((1, 1)))

    def test_oracle(self, source: Source) -> None:
        """An oracle is empty or finite, of its fields' shapes, repeatable, and nearer its own item than others."""
        unit, *others = source.split("test", Streams(0)).units()
        first, second = source.oracle(unit), source.oracle(unit)
        assert first.keys() == second.keys()
        for name, value in first.items():
            truth = unit.fields[name][0].numpy()
            assert value.shape == truth.shape
            assert np.isfinite(value).all()
            assert np.array_equal(value, second[name])
            if not self.items_alike:
                assert np.square(value - truth).mean() < np.square(value[:, None] - truth[None]).mean()
        if first and self.items_alike:
            units = [unit, *others]
            for name in first:
                told_UF = np.stack([source.oracle(one)[name].mean(0) for one in units])
                true_UF = np.stack([one.fields[name][0].numpy().mean(0) for one in units])
                away_UU = np.square(told_UF[:, None] - true_UF[None]).mean(-1)
                assert np.diag(away_UU).mean() < away_UU[~np.eye(len(units), dtype=bool)].mean()

    def test_plugin_is_immutable(self, tmp_path: Path) -> None:
        """Parameters cannot be changed after they were given."""
        data = self.make(tmp_path)
        with pytest.raises(attrs.exceptions.FrozenInstanceError):
            data.anything = 1  # type: ignore[attr-defined]
