"""Prepared folders as a data plugin: the laws of data, and what the loader promises."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import attrs
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from core.errors import UserError
from core.kinds.data import Data
from core.testing.data import DataLaws, items
from core.train.streams import Streams
from plugins.data import anndata_file, shards
from plugins.data.processed import Processed
from plugins.data.sets import Sets
from plugins.data.tiles import blocks, patches, tiled
from prepared import cells, merge, save, stage


@pytest.fixture(autouse=True)
def unprobed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The look at a file from another process costs an interpreter."""
    monkeypatch.setattr(anndata_file, "_probe", lambda path: None)


def prepared(
    folder: Path, *, count: int = 90, sections: int = 3, genes: int = 8, store: str = "dense", **flags
) -> Path:
    """A folder of cells that is made once."""
    flags = {"by": "block", "blocks": 6, "valid": 0.2, "test": 0.2, "shard": 40} | flags
    name = "-".join(map(str, (count, sections, genes, store, *flags.values())))
    out = folder / name
    if not out.exists():
        source = save(folder / f"{name}.h5ad", cells(count, genes, sections))
        stage(folder / f"{name}.mid", source, store=store)
        merge(out, folder / f"{name}.mid", **flags)
    return out


SMALL = Sets(size=10, per_batch=2)


class TestProcessed(DataLaws):
    """Dense and sparse folders, kept in memory or streamed, in sets of each kind."""

    @pytest.fixture(params=["dense map random", "sparse map patch", "dense stream random", "dense stream patch",
                            "sparse stream section"], autouse=True)  # fmt: skip
    def form(self, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
        self.form_is = request.param
        monkeypatch.setattr(shards, "GROUP", 16)

    def make(self, folder: Path) -> Data:
        store, reading, draw = self.form_is.split()
        return reader(prepared(folder, store=store), reading=reading, draw=draw)

    def others(self, folder: Path) -> list[Data]:
        data = self.make(folder)
        assert isinstance(data, Processed)
        other = str(prepared(folder, store=self.form_is.split()[0], seed=1))
        wider = attrs.evolve(data.sets, per_batch=3)
        return [attrs.evolve(data, path=other), attrs.evolve(data, clip=9.0), attrs.evolve(data, sets=wider)]


def reader(path: Path, *, reading: str = "map", draw: str = "random", room: int = 20, size: int = 10) -> Processed:
    """A small reader; a window of a stream holds `room` cells of 8 genes in two dimensions."""
    memory = {} if reading == "map" else {"memory": 64 * room / 2**20}
    sets = Sets(size=size, per_batch=2, draw=draw)
    return Processed(path=str(path), reading=reading, sets=sets, **memory)


def order_of(data: Data, epoch: int = 0, seed: int = 0) -> list[int]:
    """The items of a training epoch as they come."""
    split = data.open().split("train", Streams(seed))
    return [item for i in range(split.batches(epoch)) for item in items(split.batch(epoch, i))]


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two thousand cells of four sections in many row groups and shards."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "GROUP", 16)
        patch.setattr(anndata_file, "_probe", lambda path: None)
        return prepared(tmp_path_factory.mktemp("large"), count=2000, sections=4, shard=500)


class TestLoader:
    """What the loader promises beyond the laws."""

    @pytest.mark.parametrize("reading", ["map", "stream"])
    def test_true_shuffle(self, large: Path, reading: str) -> None:
        """The order of the file says nothing of the order of an epoch, nor does one epoch of the next."""
        one, two = (order_of(reader(large, reading=reading, room=250), epoch) for epoch in (0, 1))
        assert sorted(one) == sorted(two)
        for a, b in ((range(len(one)), one), (np.argsort(one), np.argsort(two))):
            assert abs(spearmanr(a, b)[0]) < 0.25
        assert one != two

    @pytest.mark.parametrize("draw", ["random", "patch", "section"])
    @pytest.mark.parametrize("reading", ["map", "stream"])
    @given(workers=st.sampled_from([1, 2, 4]), ranks=st.sampled_from([1, 2]), epoch=st.integers(0, 3))
    @settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    def test_each_cell_once(self, large: Path, reading: str, draw: str, workers: int, ranks: int, epoch: int) -> None:
        """Over all workers of all ranks, every cell comes exactly once an epoch."""
        found: Counter[int] = Counter()
        for rank in range(ranks):
            for worker in range(workers):
                split = reader(large, reading=reading, draw=draw, room=300, size=64).open().split("train", Streams(1))
                for i in split.share(epoch, rank, ranks, worker, workers):
                    found.update(items(split.batch(epoch, i)))
        whole = {item for unit in split.units() for item in items(unit)}
        assert found == Counter(whole)

    @given(st.integers(0, 60), st.integers(1, 5), st.integers(1, 5))
    @settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    def test_shares_divide(self, large: Path, epoch: int, ranks: int, workers: int) -> None:
        """Shares are disjoint runs that cover an epoch, as long as each other to within one batch."""
        split = reader(large).open().split("train", Streams(0))
        parts = [split.share(epoch, r, ranks, w, workers) for r in range(ranks) for w in range(workers)]
        assert [i for part in parts for i in part] == list(range(split.batches(epoch)))
        assert max(map(len, parts)) - min(map(len, parts)) <= 1

    @pytest.mark.parametrize(("rank", "ranks", "worker", "workers"), [(2, 2, 0, 1), (-1, 2, 0, 1), (0, 1, 1, 1)])
    def test_ranks_are_checked(self, large: Path, rank: int, ranks: int, worker: int, workers: int) -> None:
        """A rank beyond the last is refused."""
        with pytest.raises(ValueError, match="count from 0"):
            reader(large).open().split("train", Streams(0)).share(0, rank, ranks, worker, workers)

    def test_window_bounds_memory(self, large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A stream never holds more decoded cells than a window, whatever the data set's size."""
        source = reader(large, reading="stream", room=200).open()
        held: list[int] = []
        load = type(source).load
        monkeypatch.setattr(
            type(source), "load", lambda s, chunks: held.append(sum(c.cells for c in chunks)) or load(s, chunks)
        )
        split = source.split("train", Streams(0))
        for i in range(split.batches(0)):
            split.batch(0, i)
        assert max(held) <= 200
        assert len(held) >= 5

    def test_patches_are_compact(self, large: Path) -> None:
        """A patch spans far less of its section than a random set of as many cells."""
        spread = {}
        for draw in ("random", "patch"):
            split = reader(large, draw=draw, size=32).open().split("train", Streams(0))
            batch = split.batch(0, 0)
            position_NP = batch.fields["position"][0][batch.real_BN[0]].numpy()
            spread[draw] = float(np.ptp(position_NP, axis=0).prod())
        assert spread["patch"] < 0.3 * spread["random"]

    def test_stream_holds_the_same_cells(self, large: Path) -> None:
        """Streamed or kept in memory, a cell has the same numbers."""
        tables = []
        for reading in ("map", "stream"):
            split = reader(large, reading=reading).open().split("train", Streams(0))
            table = {}
            for i in range(split.batches(0)):
                batch = split.batch(0, i)
                for b, n in batch.real_BN.nonzero().tolist():
                    table[int(batch.fields["index"][b, n])] = batch.fields["expression"][b, n].numpy().tobytes()
            tables.append(table)
        assert tables[0] == tables[1]

    def test_batch_larger_than_the_data(self, large: Path) -> None:
        """Sets and batches that ask for more cells than there are hold them all; nothing is dropped."""
        data = Processed(path=str(large), sets=Sets(size=10_000, per_batch=1_000))
        split = data.open().split("train", Streams(0))
        assert split.batches(0) == 1
        assert len(items(split.batch(0, 0))) == data.open().describe().splits["train"]

    def test_restore_to_stored_values(self, large: Path) -> None:
        """Restored expression is what the file holds, and its statistics give the counts back."""
        source = reader(large).open()
        unit = next(source.split("test", Streams(0)).units())
        stored = source.restore("expression", unit.fields["expression"][0].numpy())
        counts = cells(2000, 8, 4)
        section = unit.units[0]
        fitted = source.statistics(section)
        import pyarrow.parquet as pq

        table = pq.read_table(large / "data" / "test-00000-of-00001.parquet").to_pandas()
        rows = table[table.section == section]
        np.testing.assert_allclose(stored, np.stack(rows.expression), atol=1e-4)
        back = fitted.invert(np.stack(rows.expression), rows.total.to_numpy())
        np.testing.assert_allclose(back, counts[rows.cell].X.toarray(), atol=1e-3)
        np.testing.assert_allclose(fitted.apply(counts[rows.cell].X.toarray()), np.stack(rows.expression), atol=1e-5)

    def test_a_shard_of_another_version_is_refused(self, large: Path, tmp_path: Path) -> None:
        """A shard that does not carry the folder's key is not read, whatever its name and size."""
        import json
        import shutil

        copy = tmp_path / "copy"
        shutil.copytree(large, copy)
        said = json.loads((copy / "manifest.json").read_text())
        said["key"] = "0" * 64
        (copy / "manifest.json").write_text(json.dumps(said))
        split = reader(copy).open().split("train", Streams(0))
        with pytest.raises(UserError, match="is a shard of another data set"):
            split.batch(0, 0)


PLACES = st.integers(1, 60).flatmap(
    lambda n: st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=n, max_size=n)
)


class TestTiles:
    """Groups by place."""

    @given(PLACES, st.integers(1, 20), st.floats(-1e30, 1e30))
    @settings(max_examples=60, deadline=None)
    def test_tiled(self, places: list[tuple[int, int]], size: int, shift: float) -> None:
        """An order of all cells, coincident or far from the origin."""
        order = tiled(np.array(places, float) + shift, size)
        assert sorted(order.tolist()) == list(range(len(places)))

    @given(PLACES, st.integers(1, 20), st.randoms())
    @settings(max_examples=60, deadline=None)
    def test_blocks(self, places: list[tuple[int, int]], count: int, random) -> None:
        """Coincident cells share a block, and blocks do not depend on the order of cells."""
        place_nP = np.array(places, float)
        code_n = blocks(place_nP, count)
        assert code_n.max() < count
        assert sorted(set(code_n.tolist())) == list(range(code_n.max() + 1))
        for place in set(places):
            assert len(set(code_n[(place_nP == place).all(axis=1)])) == 1
        order = list(range(len(places)))
        random.shuffle(order)
        assert np.array_equal(blocks(place_nP[order], count), code_n[order])

    @given(PLACES, st.integers(1, 8), st.integers(0, 9), st.sampled_from([1.0, 1e-300, 1e300]))
    @settings(max_examples=60, deadline=None)
    def test_patches(self, places: list[tuple[int, int]], parts: int, seed: int, scale: float) -> None:
        """Each cell is in exactly one patch, and patches are as large as each other to within one cell."""
        parts = min(parts, len(places))
        found = patches(np.array(places, float) * scale, parts, np.random.default_rng(seed))
        assert len(found) == parts
        assert sorted(np.concatenate(found).tolist()) == list(range(len(places)))
        assert max(map(len, found)) - min(map(len, found)) <= 1
