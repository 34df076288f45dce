"""`core evaluate`: score a finished run again, or predictions in a file by the truth in another."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from core.cli.choose import resolve_trained
from core.cli.place import apart, one_of
from core.errors import UserError
from core.layers import is_flag
from core.registry import installed

HELP = """usage: core evaluate RUN [--split test|valid|train] [--metrics NAME,...] [-o FILE.json] [--force]
       core evaluate PREDICTED REAL [...]

Score the model of RUN (the directory of a finished run) again, beside the baselines of its field: the numbers of the
run's own evaluation to the last digit, or those of other metrics or another split. Nothing is written into RUN.

  --split NAME      test (default), valid or train; the model was trained on train
  --metrics NAMES   instead of the run's own; `core list metric` shows them
  --data FILE       where the data lie now, if they were moved; their content must be what the run was trained on
  -o, --out FILE    write scores, units and notes as JSON too
  --force           write over FILE if it is there

Flags that say how a model is sampled may follow, such as `--sampling 200` or `--solver heun`; what it was trained with
cannot be said anew.

Two files need no run and no model; what compares them comes from manifests:

{verbs}

`core evaluate {first} --help` tells more."""

SWITCHES = {"-h": "help", "--help": "help", "--force": "force"}
OPTIONS = {"-o": "out", "--out": "out", "--split": "split"}
SPLITS = ("test", "valid", "train")


def _names_files(words: list[str]) -> bool:
    """Whether the words name files and no run, which is a directory; values of flags do not count."""
    wants = [is_flag(before) and "=" not in before and before not in SWITCHES for before in ["", *words]]
    places = [Path(word) for word, value in zip(words, wants, strict=False) if not value and not is_flag(word)]
    if any(place.is_dir() for place in places):
        return False
    return any(place.is_file() for place in places) or (len(places) == 2 and any(place.suffix for place in places))


def main(words: list[str]) -> int:
    files = installed().verbs.get("evaluate", {})
    if words and words[0] in files and not Path(words[0]).exists():
        return int(files[words[0]].load()(words[1:]) or 0)
    if files and _names_files(words):
        return int(next(iter(files.values())).load()(words) or 0)
    places, said = apart(words, SWITCHES, OPTIONS)
    if "help" in said.switches:
        verbs = "\n".join(f"  {name}  {verb.summary}" for name, verb in files.items())
        print(HELP.format(verbs=verbs or "  none installed", first=next(iter(files), "NAME")))
        return 0
    if len(places) != 1:
        raise UserError(f"`core evaluate` takes one run directory, not {len(places)}; usage: core evaluate RUN")
    split = one_of(said.options.get("split", "test"), SPLITS, "--split")
    import torch

    from core.cli.apply import writable
    from core.report.console import print_scores
    from core.train.session import open_run
    from core.train.streams import Streams
    from core.train.trained import finished, read_preparation, trained_model

    path = Path(places[0])
    if "force" in said.switches and "out" not in said.options:
        raise UserError("--force writes over the file of -o, and none is named; leave it out, or give -o FILE.json")
    if "out" in said.options:
        writable(Path(said.options["out"]), force="force" in said.switches)
    record = finished(path)
    resolved = resolve_trained(path, said.overrides, free=["metrics"])
    try:
        opened = open_run(resolved)
    except UserError as error:
        hint = (
            ""
            if said.overrides
            else f"; if the data were moved, `core evaluate {path} --data FILE` says where they are"
        )
        raise UserError(f"{error}{hint}") from None
    source = opened.source
    if opened.card.fingerprint != record["data"]["fingerprint"]:
        try:
            source = opened.source.arranged(read_preparation(path).told)
        except UserError as error:
            raise UserError(
                f"the data are not those that {path} was trained on ({error}), so which cells were held out is not "
                "known: give the same file with --data FILE, or train on these with `core run`"
            ) from None
    if opened.device.type == "cpu":
        torch.set_deterministic_debug_mode("error")
    model = trained_model(path, opened.run.system, opened.card, opened.run.seed, opened.device)
    evaluation = opened.run.system.evaluate(model, source, split, Streams(opened.run.seed))
    if source is not opened.source:
        print(
            "core: columns of the data stand in another order than the model's and were taken by name", file=sys.stderr
        )
    print_scores(evaluation)
    if split == "train":
        print("The model and the baselines were fitted to these very items: this is no test.")
    if "out" in said.options:
        from core.files import write_atomic
        from core.report.store import document

        told = {"run": str(path), "digest": record["digest"], "split": split, **document(evaluation)}
        target = Path(said.options["out"])
        try:
            write_atomic(target, json.dumps(told, indent=1, allow_nan=False))
        except OSError as error:
            raise UserError(f"{target} cannot be written ({error.strerror}); name another file with -o") from None
        print(f"scores   {target}")
    return 0
