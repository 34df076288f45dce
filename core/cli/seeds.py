"""`core run --seeds N`: one configuration, several seeds, each run in a process of its own."""

from __future__ import annotations

import sys
from pathlib import Path

from core.cli.choose import Words
from core.config import Resolved
from core.errors import UserError
from core.names import Text
from core.structure import structure
from core.study.job import Job
from core.study.pool import run_all


def count_seeds(text: str) -> int:
    """The value of `--seeds`.

    Raises:
        UserError: no whole number of at least 1.
    """
    try:
        count = structure(Text(text), int)
    except ValueError as error:
        raise UserError(f"--seeds: {error}") from None
    if count < 1:
        raise UserError(f"--seeds: must be >= 1, got {count}")
    return count


def run_seeds(resolved: Resolved, said: Words, count: int) -> int:
    """Run `count` seeds through the configured executor and print mean and spread over seeds."""
    from core.report.console import print_seeds
    from core.report.store import load_evaluation

    first = resolved.root.seed
    out = said.options.get("out")
    jobs, places = [], {}
    for seed in range(first, first + count):
        places[seed] = Path(out) / f"seed-{seed}" if out else None
        words = [*said.files, *_without_seed(said.overrides), "--seed", str(seed), "--quiet"]
        words += [f"--{flag}" for flag, name in (("force", "force"), ("no-report", "bare")) if name in said.switches]
        words += ["-o", str(places[seed])] if out else []
        # -P: a folder called `plugins` in the current directory must not be found before ours.
        jobs.append(Job(name=f"seed {seed}", argv=(sys.executable, "-P", "-m", "core", "run", *words)))
    failed, done = [], {}
    codes: set[int] = set()
    for finished in run_all(resolved.root.executor, jobs):
        if finished.code == 0:
            path = Path(finished.output.rstrip().rpartition("\n")[2].removeprefix("run").strip())
            done[finished.job.name] = path
            print(f"{finished.job.name}  {path}", file=sys.stderr)
        else:
            last = finished.output.strip().rpartition("\n")[2]
            failed.append(f"{finished.job.name}: exit {finished.code}: {last}")
            codes.add(finished.code)
    if done:
        print_seeds([load_evaluation(done[name]) for name in sorted(done, key=lambda n: int(n.split()[1]))])
    for line in failed:
        print(f"core: {line}", file=sys.stderr)
    # Where all that failed failed alike, that is how the command failed: 2 for a mistake, 130 for an interrupt.
    return codes.pop() if len(codes) == 1 and codes <= {2, 130} else int(bool(failed))


def _without_seed(overrides: tuple[str, ...]) -> list[str]:
    kept, skip = [], False
    for word in overrides:
        if skip or word.startswith("--seed="):
            skip = False
        elif word == "--seed":
            skip = True
        else:
            kept.append(word)
    return kept
