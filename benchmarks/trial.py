"""What a study adds to a trial: the wall-clock time of its process over that of its own training and evaluation.

    OMP_NUM_THREADS=1 python -m benchmarks.trial [--repeats 6]

Trials run one after another through the executor `local`, as a study runs them; the first waits for the process off
which all are forked, and stands apart. Beside them stand trials without that process, and a bare process that imports
torch and makes one step of AdamW. Exit status 1 where the overhead misses its bound of 1.6 s.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from core.kinds import Executor
from core.study.job import Job
from plugins.executors.local import Local

BOUND = 1.6
SMALL = (
    "--data.cells=60", "--data.genes=16", "--data.types=4", "--data.sets.size=32", "--width=16", "--depth=2",
    "--attention.heads=2", "--sampling=2", "--train.warmup=2", "--train.steps=20",
)  # fmt: skip
BARE = """
import torch
weight = torch.nn.Linear(8, 8)
optimiser = torch.optim.AdamW(weight.parameters())
weight(torch.ones(1, 8)).sum().backward()
optimiser.step()
"""


def wall(*argv: str) -> float:
    """Seconds of a process of this interpreter."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-P", *argv], check=True, capture_output=True)
    return time.perf_counter() - began


def run_trial(executor: Executor, study: Path, trial: str) -> float:
    """Seconds from the start of a trial's process to the word that it ended."""
    output = study / "output.txt"
    job = Job(name=trial, argv=(sys.executable, "-P", "-m", "core", "ablate", "trial", str(study), trial))
    began = time.perf_counter()
    running = executor.start(job, output, 0)
    while (code := running.poll()) is None:
        time.sleep(0.002)
    assert code == 0, output.read_text()
    return time.perf_counter() - began


def compute(repeats: int) -> float:
    """Seconds of training and evaluating alone, everything imported and warm."""
    from core.cli.choose import resolve_run
    from core.train.session import evaluate, open_run

    opened = open_run(resolve_run([], SMALL))
    taken = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        trainer = opened.trainer()
        for _ in range(trainer.total):
            trainer.step()
        evaluate(trainer)
        taken.append(time.perf_counter() - began)
    return statistics.median(taken[1:])


def main() -> int:
    """Print the figures; 1 where the bound is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=6)
    repeats = parser.parse_args().repeats
    with tempfile.TemporaryDirectory() as folder:
        study = Path(folder) / "study"
        axis = ["--attention", "softmax,linear", "--seeds", str(repeats), "--slots", "1", "--quiet", "-o", str(study)]
        from core.cli.ablate.words import asked_of
        from core.cli.choose import resolve_layers
        from core.study.folder import keep
        from core.study.plan import document, make_plan

        plan = make_plan(asked_of([*SMALL, *axis])[0], resolve_layers)
        keep(study, document(plan), [trial.identity for trial in plan.trials], "", 2)
        softmax = [trial.id[:16] for trial in plan.trials if "softmax" in trial.arm]
        linear = [trial.id[:16] for trial in plan.trials if "linear" in trial.arm]
        warm = [run_trial(Local(), study, trial) for trial in softmax]
        cold, bare = [], []
        for trial in linear[:repeats]:
            cold.append(run_trial(Local(warm=False), study, trial))
            bare.append(wall("-c", BARE))
    own = compute(repeats)
    middle = statistics.median(warm[1:])
    over = middle - own
    print(f"a trial                  {middle:6.2f} s   the first of a study {warm[0]:.2f} s")
    print(f"its own compute          {own:6.2f} s")
    print(f"overhead                 {over:6.2f} s   bound {BOUND} s   {'pass' if over <= BOUND else 'MISS'}")
    print(f"a trial, warm=false      {statistics.median(cold):6.2f} s   overhead {statistics.median(cold) - own:.2f} s")
    print(f"bare torch, one step     {statistics.median(bare):6.2f} s")
    return 0 if over <= BOUND else 1


if __name__ == "__main__":
    sys.exit(main())
