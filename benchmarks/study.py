"""What the trial table costs: 10,000 trials that do nothing, planned, scanned, claimed and published.

    python benchmarks/study.py [--trials 10000] [--sample 300] [--folder DIR]

Wall-clock seconds, because what counts is waiting for the disk; a bare fsync of the same disk stands beside them. Exit
status 1 where a bound is missed: plan < 1 s, scan again < 0.5 s, claim and publish < 5 ms each, and memory that does
not grow from scan to scan.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

from core.study import steps
from core.study.scan import Scanner
from core.study.sealed import seal
from core.study.table import Table

PLAN, RESCAN, STEP, GROWTH = 1.0, 0.5, 0.005, 64 * 1024
"""seconds, seconds, seconds, bytes"""


def seconds(step: Callable[[], object]) -> float:
    """Wall-clock seconds of one call."""
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def fsync(folder: Path) -> float:
    """Seconds of writing and flushing one small file and its folder, which any publication must pay at least."""

    def once() -> None:
        with (folder / "flushed").open("wb") as file:
            file.write(b"x" * 300)
            file.flush()
            os.fsync(file.fileno())
        handle = os.open(folder, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)

    return statistics.median(seconds(once) for _ in range(30))


def grown(scanner: Scanner, scans: int = 5) -> int:
    """Bytes by which Python's memory grows over several scans."""
    scanner.scan()
    tracemalloc.start()
    scanner.scan()
    before, _ = tracemalloc.get_traced_memory()
    for _ in range(scans):
        scanner.scan()
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return after - before


def verdict(what: str, value: float, bound: float, show: Callable[[float], str]) -> bool:
    """Print a line; True where the bound holds."""
    holds = value < bound
    print(f"{what:34} {show(value):>12}   bound {show(bound):>10}   {'pass' if holds else 'MISS'}")
    return holds


def in_seconds(value: float) -> str:
    return f"{value:.3f} s"


def in_milliseconds(value: float) -> str:
    return f"{value * 1e3:.2f} ms"


def in_kilobytes(value: float) -> str:
    return f"{value / 1024:.1f} KiB"


def measure(root: Path, trials: int, sample: int) -> bool:
    """All figures over a fresh table; True where every bound holds."""
    pieces = {"attention": "gated_headwise", "ffn": "moe4x2", "norm": "rms", "position": "rotary"}
    identities = [{"seed": i, "config": {"lr": 1e-3, "width": 64, **pieces}} for i in range(trials)]
    table = Table.create(root / "study")
    held = [verdict("plan", seconds(lambda: table.add(identities)), PLAN, in_seconds)]
    scanner = Scanner(table)
    print(f"{'first scan':34} {in_seconds(seconds(scanner.scan)):>12}")
    held.append(verdict("scan again, none begun", seconds(scanner.scan), RESCAN, in_seconds))
    ids = table.ids()[:sample]
    for trial in ids:
        table.open(trial)
    claims: list[steps.Claim] = []
    claim = statistics.median(seconds(lambda trial=trial: claims.append(steps.claim(table, trial))) for trial in ids)
    held.append(verdict("claim, median", claim, STEP, in_milliseconds))
    finish = statistics.median(seconds(lambda mine=mine: steps.finish(table, mine, {"x": 1}, {})) for mine in claims)
    held.append(verdict("publish, median", finish, STEP, in_milliseconds))
    print(f"{'(one file and folder to this disk)':34} {in_milliseconds(fsync(root)):>12}")
    for trial in table.ids():
        (table.folder(trial)).mkdir(parents=True, exist_ok=True)
    scanner.scan()
    held.append(verdict("scan again, a folder for each", seconds(scanner.scan), RESCAN, in_seconds))
    for trial in table.ids()[sample:]:  # as `finish` would, without waiting ten thousand times for the disk
        body = {"id": table.config(trial)[0], "study": table.study, "attempt": 1, "metrics": {"x": 1}, "measured": {}}
        (table.folder(trial) / "result.json").write_bytes(seal(body))
    print(f"{'first scan, all done':34} {in_seconds(seconds(Scanner(table).scan)):>12}")
    scanner.scan()
    held.append(verdict("scan again, all done", seconds(scanner.scan), RESCAN, in_seconds))
    held.append(verdict("memory gained over five scans", grown(scanner), GROWTH, in_kilobytes))
    return all(held)


def main() -> int:
    """Print the figures; 1 where one misses its bound."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--sample", type=int, default=300, help="trials that are claimed and published")
    parser.add_argument("--folder", type=Path, help="where to measure; default: the temporary folder")
    words = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=words.folder) as folder:
        print(f"{words.trials} trials in {folder}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
        return 0 if measure(Path(folder), words.trials, words.sample) else 1


if __name__ == "__main__":
    sys.exit(main())
