"""How many cells a second the loader of prepared folders gives, and in how much memory.

    python -m benchmarks.loader

Folders of 500 genes are written to a temporary place (2 KB a cell before compression). Every case runs an epoch in a
process of its own, one thread, and counts that each cell came once. `map` keeps decoded cells in memory: its first
epoch decodes, which other readers do when they are opened, later ones do not; most of its memory is new then, at a
price that differs from process to process, so it is run five times and the median counts. `stream` holds a window. The
peer is what a plain reader does: Parquet to Python lists (`to_pylist`), a shuffled buffer of them, numpy arrays from
those. Times are CPU seconds of the process; memory is the peak of the process (Linux).
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from benchmarks.attention import high_water
from benchmarks.common import ratio_line
from core.files import write_json
from core.listed import Draft
from core.train.streams import Streams
from plugins.data.processed import Processed
from plugins.data.sets import Sets
from plugins.data.shards import GROUP, Cells, Writer
from plugins.data.stage2 import FOLDERS, MADE

MAP, STREAM, FLAT = 100_000, 80_000, 1.15
"""bars: cells a second either way, and how much the peak may grow from the small folder to the large one"""
REPEATS = 5
SECTION, SHARD = 20_000, 100_000
PEER_CELLS = 20_000


def write(path: Path, cells: int, genes: int) -> None:
    """A folder as stage 2 writes them, of log-normal-like values in sections of 20,000 cells."""
    rng = np.random.default_rng(0)
    counts = rng.poisson(0.6, (SECTION, genes)).astype(np.float32)
    values = np.log1p(counts * rng.uniform(5, 20, (SECTION, 1)).astype(np.float32))
    values = (values - values.mean(axis=0)) / values.std(axis=0)
    sections = [f"s{i:04d}" for i in range(-(-cells // SECTION))]
    sizes = {"train": cells, "valid": 64, "test": 64}
    shards: dict[str, list[list[int]]] = {}
    with Draft(path, MADE, "0" * 64) as draft:
        for split, count in sizes.items():
            files = -(-count // SHARD)
            for i in range(files):
                name = f"data/{FOLDERS[split]}-{i:05d}-of-{files:05d}.parquet"
                with draft.file(name) as place, Writer(place, genes, 2, sparse=False, key="0" * 64) as writer:
                    shards[name] = list(groups(writer, range(i * SHARD, min(count, (i + 1) * SHARD)), sections, values))
        write_json(
            draft.path / "metadata.json",
            {
                "genes": [f"g{i}" for i in range(genes)], "cell_types": [], "dims": 2, "sparse": False, "steps": "-",
                "split": "made for a benchmark", "splits": sizes, "shards": shards,
                "sections": [
                    {"name": name, "cells": min(SECTION, cells - i * SECTION), "centre": [0.0, 0.0], "untyped": 0,
                     "train": min(SECTION, cells - i * SECTION), "valid": 64 * (i == 0), "test": 64 * (i == 0)}
                    for i, name in enumerate(sections)
                ],
                "model": {"mean": [0.0] * genes, "std": [1.0] * genes, "scale": 100.0},
            },
        )  # fmt: skip
        draft.finish({"metadata.json", *shards})


def groups(writer: Writer, rows: range, sections: list[str], values: np.ndarray) -> Iterator[list[int]]:
    """Write row groups of a shard; section and cells of each."""
    start = rows.start
    while start < rows.stop:
        section = start // SECTION
        end = min(start + GROUP, rows.stop, (section + 1) * SECTION)
        index = np.arange(start, end) % SECTION
        place = np.random.default_rng(start).uniform(0, 1000, (len(index), 2))
        count = len(index)
        names = np.array([f"c{i}" for i in range(start, end)], object)
        writer.write(sections[section], Cells(values[index], place, np.full(count, -1), np.full(count, 1.0), names))
        yield [section, count]
        start = end


def epochs(path: Path, reading: str, memory: float, count: int) -> dict[str, float]:
    """Cells a CPU second of each epoch, and whether each cell came once."""
    torch.set_num_threads(1)
    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    said = {} if reading == "map" else {"memory": memory}
    source = Processed(path=str(path), reading=reading, sets=Sets(size=512, per_batch=2), **said).open()
    split = source.split("train", Streams(0))
    result: dict[str, float] = {"before": high_water()}
    for epoch in range(count):
        seen = np.zeros(source.describe().splits["train"], np.uint8)
        start = time.process_time()
        for i in range(split.batches(epoch)):
            batch = split.batch(epoch, i)
            seen[batch.fields["index"][batch.real_BN].numpy()] += 1
        result[f"epoch {epoch}"] = len(seen) / (time.process_time() - start)
        result["once"] = bool((seen == 1).all())
    return result | {"peak": high_water()}


def peer(path: Path) -> dict[str, float]:
    """The same through Python lists, of the first cells."""
    start, seen, buffer = time.process_time(), 0, []
    with pq.ParquetFile(min((path / "data").glob("train-*"))) as file:
        for part in file.iter_batches(1000, columns=["expression", "position", "cell_type"]):
            buffer += part.to_pylist()
            if len(buffer) >= 10_000:
                random.Random(0).shuffle(buffer)
                for i in range(0, len(buffer), 512):
                    some = buffer[i : i + 512]
                    torch.from_numpy(np.array([row["expression"] for row in some], np.float32))
                    seen += len(some)
                buffer = []
            if seen >= PEER_CELLS:
                break
    return {"epoch 0": seen / (time.process_time() - start), "peak": high_water()}


def fresh(*words: str) -> dict[str, float]:
    """A case in a process of its own."""
    argv = [sys.executable, "-m", "benchmarks.loader", "--case", *words]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(argv)} failed:\n{done.stderr}")
    return json.loads(done.stdout)


def middle(runs: list[dict[str, float]]) -> dict[str, float]:
    """The run whose first epoch is the median, and whether cells came once in all of them."""
    rates = sorted(run["epoch 0"] for run in runs)
    print("first epochs, mapped: " + ", ".join(f"{rate:,.0f}" for rate in rates) + " cells/s", flush=True)
    chosen = next(run for run in runs if run["epoch 0"] == rates[len(rates) // 2])
    return chosen | {"once": all(run["once"] for run in runs)}


def report(folder: Path, options: argparse.Namespace) -> None:
    """Write, read, and print how that stands against the bars."""
    small, large = folder / "small", folder / "large"
    for path, cells in ((small, options.small), (large, options.large)):
        write(path, cells, options.genes)
        size = sum(file.stat().st_size for file in path.rglob("*.parquet")) / 2**20
        print(f"{path.name}: {cells:,} cells x {options.genes} genes, {size:,.0f} MiB of Parquet", flush=True)
    memory = str(options.memory)
    cases = {
        "map, small": middle([fresh(str(small), "map", memory, "2") for _ in range(REPEATS)]),
        "stream, small": fresh(str(small), "stream", memory, "1"),
        "stream, large": fresh(str(large), "stream", memory, "1"),
    }
    print(f"{'':15}{'first epoch':>14}{'later':>14}{'peak MiB':>10}{'above start':>12}  each cell once")
    for name, found in cases.items():
        later = f"{found['epoch 1']:,.0f}" if "epoch 1" in found else ""
        above = found["peak"] - found["before"]
        print(f"{name:15}{found['epoch 0']:14,.0f}{later:>14}{found['peak']:10.0f}{above:12.0f}  {bool(found['once'])}")
    them = fresh(str(small), "peer")
    print(f"{'to_pylist':15}{them['epoch 0']:14,.0f}")
    for what, rate, bar in (
        ("map, first epoch, which decodes", cases["map, small"]["epoch 0"], MAP),
        ("map, decoded", cases["map, small"]["epoch 1"], MAP),
        ("stream", cases["stream, large"]["epoch 0"], STREAM),
    ):
        print(f"{what}: {rate:,.0f} cells/s (bar {bar:,}: {'reached' if rate >= bar else 'MISSED'})")
        print(ratio_line(f"{what}, against to_pylist", 1 / rate, 1 / them["epoch 0"]))
    grown = cases["stream, large"]["peak"] / cases["stream, small"]["peak"]
    times = options.large / options.small
    print(
        f"peak memory of {times:g} times the cells: {grown:.2f} "
        f"(bar {FLAT}: {'reached' if grown <= FLAT else 'MISSED'})"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="the loader of prepared folders")
    parser.add_argument("--small", type=int, default=100_000)
    parser.add_argument("--large", type=int, default=1_000_000)
    parser.add_argument("--genes", type=int, default=500)
    parser.add_argument(
        "--memory", type=float, default=96, help="MiB of a window, of which either folder needs several"
    )
    parser.add_argument("--folder", type=Path, help="where to write; a temporary place")
    parser.add_argument("--case", nargs="+", help="run one case and print it as JSON")
    options = parser.parse_args()
    if options.case:
        path, reading, *rest = options.case
        found = peer(Path(path)) if reading == "peer" else epochs(Path(path), reading, float(rest[0]), int(rest[1]))
        print(json.dumps(found))
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        report(Path(folder), options)


if __name__ == "__main__":
    main()
