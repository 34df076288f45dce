"""`core sample`: fill in what a file of items lacks."""

from __future__ import annotations

from core.cli.place import apart, one_of, whole
from core.errors import UserError

HELP = """usage: core sample RUN FILE --mode MODE -o OUT [--draws K] [--seed N] [--patch N] [--force]

Fill in what FILE lacks with the model of RUN (the directory of a finished run): where do cells with this expression
sit, what do cells at these places express, how do these cells respond. The training data need not be there. OUT is FILE
with the answer added, or the cells that were made, in the units of the input, and says which run made it.

  --mode MODE      of the system `spatial` expr_to_pos, pos_to_expr or joint; of `perturb` response, for which FILE
                   holds control cells and --data.asked.conditions A+B,C names what is predicted (or a file lists it)
  -o, --out OUT    the file to write
  --force          write over OUT if it is there
  --draws K        samples of each item (1): the mean is the answer and all K stand beside it; 0: the mean that the
                   model predicts at once, closer to the truth and less varied than cells are
  --seed N         another seed of the noise than the run's
  --patch N        most items that the model is shown at once (4096); larger units are made in overlapping patches

Flags of the run's data may follow where FILE keeps things elsewhere: `--data.position KEY`, `--data.layer NAME`; and
those that say how a model is sampled: `--sampling 200`, `--solver heun`."""

SWITCHES = {"-h": "help", "--help": "help", "--force": "force"}
OPTIONS = {
    "-o": "out", "--out": "out", "--mode": "mode", "--draws": "draws", "--seed": "seed", "--patch": "patch",
}  # fmt: skip
MOST_DRAWS = 10_000
"""all draws are held in memory and written into the file"""


def main(words: list[str]) -> int:
    places, said = apart(words, SWITCHES, OPTIONS)
    if "help" in said.switches:
        print(HELP)
        return 0
    from core.cli.apply import applied, open_trained, say, target_of

    run, file = applied(places, "core sample RUN FILE --mode MODE -o OUT")
    out = target_of(said.options, file, force="force" in said.switches)
    draws = whole(said.options.get("draws", "1"), "--draws", 0, MOST_DRAWS)
    patch = whole(said.options.get("patch", "4096"), "--patch", 8)
    trained = open_trained(run, said.overrides, sampled=True)
    trained.fits(out, file)
    modes = trained.system.modes()
    if not modes:
        raise UserError(f"the run's system, {trained.name}, cannot be sampled")
    if "mode" not in said.options and len(modes) > 1:
        raise UserError(f"what is to be made? Give --mode with one of {', '.join(modes)}")
    mode = one_of(said.options.get("mode", next(iter(modes))), modes, "--mode")
    seed = whole(said.options.get("seed", str(trained.seed)), "--seed", 0)
    items, parts, facts = trained.sampled(file, mode, draws, seed, patch, say)
    command = " ".join(["core", "sample", *words])
    print(f"{out}  {trained.write(items, out, parts, {'command': command, **facts}, fresh=not modes[mode])}")
    return 0
