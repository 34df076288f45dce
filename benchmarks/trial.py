"""What a study adds to a trial: the wall-clock time of its process over that of its own training and evaluation.

    OMP_NUM_THREADS=1 python -m benchmarks.trial [--repeats 5]

Beside it stands a bare process that imports torch and makes one step of AdamW, which no trial can do without. Exit
status 1 where the overhead misses its bound of 1.6 s.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

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
    parser.add_argument("--repeats", type=int, default=5)
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
        chosen = [trial.id[:16] for trial in plan.trials if "softmax" in trial.arm]
        trials, bare = [], []
        for trial in chosen[:repeats]:
            trials.append(wall("-m", "core", "ablate", "trial", str(study), trial))
            bare.append(wall("-c", BARE))
    own = compute(repeats)
    over = statistics.median(trials) - own
    print(f"a trial's process        {statistics.median(trials):6.2f} s")
    print(f"its own compute          {own:6.2f} s")
    print(f"bare torch, one step     {statistics.median(bare):6.2f} s")
    print(f"overhead                 {over:6.2f} s   bound {BOUND} s   {'pass' if over <= BOUND else 'MISS'}")
    print(f"overhead beyond torch's  {over - statistics.median(bare):6.2f} s")
    return 0 if over <= BOUND else 1


if __name__ == "__main__":
    sys.exit(main())
