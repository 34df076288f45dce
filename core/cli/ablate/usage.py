"""What `core ablate VERB --help` prints; `core.cli.ablate.HELP` is that of running a study."""

from __future__ import annotations

RUNNING = """  --slots N             trials at a time (as many as cores or GPUs allow)
  --threads N           threads of a trial (cores divided by slots)
  --gpus 0,1            GPUs that trials are divided over
  --executor NAME       local, submitit(...), ray: a name or a call
  --attempts N          times that a trial is begun before it counts as exhausted (2)
  --timeout 2h          longest time of an attempt: 90s, 30m, 2h
  --stop futility@STEP  bring all trials to STEP, and give up arms that are clearly worse there
  --store DIR           share results between studies (CORE_STORE)
  --keep                keep the weights of finished trials
  -q, --quiet           say nothing but mistakes"""

JUDGING = """  --metric TASK/METRIC  the primary metric      --alpha 0.05  chance of any false verdict
  --margin 2%           changes that small are equivalent     --mde 5%  change that ought to be found"""

USAGE = {
    "plan": """usage: core ablate plan [STUDY.toml] [--KEY VALUE,VALUE ...] [--quick]

Cells, trials, parameters, FLOPs, time and power; nothing is run or written. Takes what `core ablate` takes
(`core ablate --help`).

  --quick               by names alone, without torch, cost and data
  --require-power       refuse seeds that cannot find 2 standard deviations (exit status 7)""",
    "work": f"""usage: core ablate work DIR [options]

One more runner on a study, here or on another machine that sees the directory. Options beat those of the plan:

{RUNNING}""",
    "status": """usage: core ablate status DIR [--json]

Counts by state, the time left, how arms stand, and why trials failed. Exit status 0: all resolved; 3: not all.""",
    "report": f"""usage: core ablate report DIR [options]

Draws the report anew, also of a study that is not finished.

  --format html,md,tex,csv,json,h5ad
  -o, --out DIR         write it there instead of into the study

These judge the study otherwise from now on, and the report tells so:

{JUDGING}""",
    "retry": """usage: core ablate retry DIR [ID ...] [--failed] [--crashed]

Grants trials one attempt more: those given by the beginning of their ids, else all that are out of attempts, or those
of them whose last attempt failed or crashed. `core ablate work DIR` then runs them.""",
    "extend": """usage: core ablate extend DIR --seeds 10 | --KEY +LEVEL

Adds seeds, or levels of an axis. What is done stays, and keeps its identity. The report tells how many results were
known by then.""",
    "confirm": """usage: core ablate confirm DIR --arm "attention=linear ffn=dense" [--seeds 10] [--slots N]

Runs one arm and the baseline on fresh seeds, as a study inside the first: the estimate to quote for a winner.""",
    "diff": """usage: core ablate diff DIR DIR

What two studies do differently, and which trials of both came to other results.""",
    "audit": f"""usage: core ablate audit DIR [ID ...] [--trials N] [options]

Repeats finished trials from nothing, without the store, and compares every digit: those given by the beginning of their
ids, else N at random (1). A difference goes into the report; exit status 1.

{RUNNING}""",
    "show": """usage: core ablate show DIR ID

One trial by the beginning of its id: where it stands, why it failed, its log, its scores, and what repeats it.""",
    "slurm": """usage: core ablate slurm DIR [--runners 8]

Prints a batch script that starts runners on a cluster.""",
    "gc": """usage: core ablate gc DIR [--dry-run]

Removes what no finished trial needs: files of its run, of attempts, and those that a kill left.""",
}
