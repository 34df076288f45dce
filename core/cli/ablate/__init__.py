"""`core ablate`: which pieces help, where, at what cost, and how sure are we?"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from core.errors import UserError
from core.names import near

HELP = """usage: core ablate [run] [STUDY.toml] [--KEY VALUE,VALUE ...] [options]
       core ablate VERB DIR ...

Train every combination of some pieces over several seeds, paired, and say which differ. The same command goes on where
a killed or stopped study left; any number of runners may share its directory.

  core ablate --attention linear,gated_headwise --ffn dense,moe4x2 --seeds 6
  core ablate studies/gated.toml
  core ablate work DIR                 one more runner, here or on another machine

what is varied
  --KEY VALUE,VALUE                    an axis: a slot or any parameter of `core run`, two values or more
  --KEY VALUE                          fixed for all arms; a list as one value in brackets: [mse,distance_mse]
  --baseline KEY=VALUE,KEY=VALUE       the arm that all are compared with (the defaults, else the first named)
  --system NAME,NAME                   several systems, each a task of its own
  --design full|ofat|twoway|fraction:E=ABCD|list
  --exclude KEY=VALUE,KEY=VALUE:WHY    leave cells out; the reason goes into the report
  --seeds 6|10:16|3,7,11               paired: every arm sees the same batches, noise and first values
  --blocks KEY=VALUE,VALUE             repeat everything over something else, data.seed=0,1,2
  --match params|active|flops|time     every arm gets the baseline's budget   (--match-on KEY, --tolerance 2%)

how it is judged
  --metric TASK/METRIC   --alpha 0.05   --margin 2%   --mde 5%   --power 0.8   --require-power

how it is run
  --slots N  --threads N  --gpus 0,1   --executor local|submitit(...)|ray
  --attempts 2  --timeout 2h  --stop futility@STEP  --store DIR  --keep
  -o, --out DIR                        the study's directory (runs/studies/HASH)
  --name TEXT                          what the report calls it

verbs (core ablate VERB --help)
  plan      cells, trials, parameters, FLOPs and power; nothing is run or written   (--quick: without torch)
  run       plan if new, then run; the default                                      (--dry-run: as plan; -q)
  work      one more runner on an existing study
  status    counts by state, time left, current numbers                             (--json)
  report    draw the report anew                       (--format html,md,tex,csv,json,h5ad, --metric, --alpha)
  retry     try failed trials again                    (DIR [ID ...])
  extend    add seeds or levels; what is done stays    (DIR --seeds 10, --attention +NAME)
  confirm   fresh seeds for one arm and the baseline   (DIR --arm "attention=linear ffn=dense" --seeds 10)
  diff      what two studies do differently            (DIR DIR)
  audit     repeat finished trials, compare all digits (DIR [ID ...], --trials 1)
  show      one trial                                  (DIR ID)
  slurm     a batch script of runners                  (DIR --runners 8)
  gc        remove what no finished trial needs        (DIR)

exit status: 0 all trials resolved; 1 internal error or two results of one trial; 2 a mistake in the command; 3 some
trials failed; 4 another study lies there; 5 nothing could be started; 6 a budget cannot be matched; 7 too little power;
130 interrupted, the same command goes on"""

VERBS = {
    "plan": "plan", "run": "run", "work": "run", "trial": "run", "status": "look", "show": "look", "diff": "look",
    "slurm": "look", "report": "report", "retry": "change", "extend": "change", "confirm": "change", "gc": "change",
    "audit": "audit",
}  # fmt: skip
CODES = {"E-PLAN": 4, "E-BUDGET": 6, "E-POWER": 7, "E-NOSLOT": 5}
"""error -> exit status, where it is not 2"""


def main(words: list[str]) -> int:
    if words and words[0] in ("-h", "--help", "help"):
        print(HELP)
        return 0
    verb, rest = (words[0], words[1:]) if words and words[0] in VERBS else ("run", words)
    if verb == "run" and rest and not rest[0].startswith("-") and not rest[0].endswith(".toml"):
        known = [name for name in VERBS if name != "trial"]
        raise UserError(f"`core ablate` has no verb {rest[0]!r}.{near(rest[0], known)} Verbs: {', '.join(known)}")
    if any(word in ("-h", "--help") for word in rest):
        from core.cli.ablate.usage import USAGE

        print(USAGE.get(verb, HELP))
        return 0
    try:
        return getattr(import_module(f"core.cli.ablate.{VERBS[verb]}"), verb)(rest)
    except UserError as error:
        code = CODES.get(str(error).partition(":")[0])
        if code is not None:
            error.exit_code = code
        raise
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            raise
        from core.study.sealed import told

        with told(Path(error.filename or "the study")):
            raise OSError(error.errno, error.strerror or str(error)) from error
        raise
