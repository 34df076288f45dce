"""`core run`: train, evaluate and report one configuration."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from core.cli.choose import describe, resolve_run, take_apart

if TYPE_CHECKING:
    from core.train.session import Opened, Report

HELP = """usage: core run [FILE.toml ...] [--PIECE NAME ...] [--KEY VALUE ...] [options]

Train a model assembled from named pieces, judge it on held-out data beside the field's trivial baselines, and write a
report. The same command goes on where a killed or stopped run left; a finished run is not trained again.

pieces, by name (`core list` shows them all)
{slots}

training
{train}
  --seed INT                     seed of all random streams (0)
  --device auto|cpu|cuda         where the steps run (auto)
  --strategy ddp|fsdp2|deepspeed --devices N
                                 N processes share the sets of each batch; the numbers are those of one

Every parameter of every chosen piece is a flag too: `core show KIND NAME` lists them (`core show system perturb` those
of a system), `--ffn.top_k 2` sets one, `core explain` prints the whole configuration with the origin of each value:
some systems suggest other values than those above, and take other pieces.

options
  -o, --out DIR                  the run directory (runs/SYSTEM/HASH-sSEED)
  --seeds N                      N runs, seeds SEED to SEED + N - 1, each in a process of its own
  --dry-run                      configuration, parameters, FLOPs and directory; nothing is trained
  --force                        set an earlier run of this directory aside and train again
  --no-report                    draw no report; `core report DIR` does so later
  -q, --quiet                    no progress
  -h, --help                     this text"""

SWITCHES = {
    "-h": "help", "--help": "help", "--dry-run": "dry", "--force": "force", "-q": "quiet", "--quiet": "quiet",
    "--no-report": "bare",
}  # fmt: skip
OPTIONS = {"-o": "out", "--out": "out", "--seeds": "seeds"}
SLOTS = ("system", "data", "backbone", "attention", "ffn", "gate", "residual", "path", "solver", "recipe")


def main(words: list[str]) -> int:
    said = take_apart(words, switches=SWITCHES, options=OPTIONS)
    if "help" in said.switches:
        print(_help())
        return 0
    resolved = resolve_run(said.files, said.overrides, [*SWITCHES, *OPTIONS])
    for note in resolved.notes:
        print(f"core: {note}", file=sys.stderr)
    if "seeds" in said.options:
        from core.cli.seeds import count_seeds, run_seeds

        count = count_seeds(said.options["seeds"])
        if "dry" not in said.switches:
            return run_seeds(resolved, said, count)
    from core.train.session import open_run

    opened = open_run(resolved)
    out = said.options.get("out")
    if "dry" in said.switches:
        from core.train.launch import checked

        cost = checked(opened)
        print("\n".join(describe(resolved)))
        parts = ", ".join(f"{name} {count:,}" for name, count in cost.by_part.items())
        print(f"\nparameters  {cost.parameters:,} ({parts})")
        print(f"FLOPs       {cost.flops:,} a training step, forward and backward")
        print(f"directory   {opened.place(out)}")
        return 0
    return perform(
        opened, out, force="force" in said.switches, quiet="quiet" in said.switches, words=["run", *words],
        report="kept" if "bare" in said.switches else "drawn",
    )  # fmt: skip


def perform(opened: Opened, out: str | None, *, force: bool, quiet: bool, words: list[str],
            report: Report = "drawn") -> int:  # fmt: skip
    """Train, evaluate, report and print, in as many processes as the run has; the exit status.

    Raises:
        UserError: see `core.train.launch.checked` and `core.train.session.execute`.
        RunFailed: training could not go on.
    """
    from core.train.launch import checked, launch
    from core.train.ranks import started
    from core.train.session import execute

    leads = opened.run.strategy.main()
    cost = checked(opened) if leads else None
    if opened.ranks > 1 and not started():
        return launch(opened.ranks, words)
    path, status = execute(opened, out, force=force, quiet=quiet, argv=["core", *words], cost=cost, report=report)
    if not leads:
        return 0 if status == "done" else 130
    return conclude(path, status)


def conclude(path: Path, status: str) -> int:
    """Print the metric table and the paths of a finished run."""
    if status != "done":
        return 130
    from core.report.console import print_scores
    from core.report.store import load_evaluation

    print_scores(load_evaluation(path))
    if (path / "report.html").exists():
        print(f"report   {path / 'report.html'}")
    print(f"run      {path}")
    return 0


def _help() -> str:
    from core.params import fields
    from core.registry import installed
    from core.train.settings import Train

    registry = installed()
    slots = []
    for kind in SLOTS:
        names = [row.spoken for row in registry.rows(kind)]
        slots.append(f"  {'--' + kind + ' NAME':30} {', '.join(names)}")
    train = [
        f"  {'--train.' + f.name + ' ' + _placeholder(f.spell()):42} {f.help} ({_default(f.default)})"
        for f in fields(Train)
    ]
    return HELP.format(slots="\n".join(slots), train="\n".join(train))


def _placeholder(spelled: str) -> str:
    return spelled.split(" >")[0].split(" <")[0].upper() if "|" not in spelled else spelled


def _default(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
