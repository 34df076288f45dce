"""`core export`: a trained model as a folder of its own."""

from __future__ import annotations

from pathlib import Path

from core.cli.place import apart
from core.errors import UserError

HELP = """usage: core export RUN -o DIR

Write the model of RUN (the directory of a finished run) to a new folder that describes itself and can be sent to
others: weights, configuration, genes in their order, names of perturbations or types, statistics, split, scores,
versions. The state of training, logs and figures stay behind. `core sample`, `core embed`, `core evaluate`, `core
inspect` and `core.api.load` take DIR as they take RUN. Each file's SHA-256 is written down, and checked at loading.

  -o, --out DIR    the folder to write, which must not be there"""

SWITCHES = {"-h": "help", "--help": "help"}
OPTIONS = {"-o": "out", "--out": "out"}


def main(words: list[str]) -> int:
    places, said = apart(words, SWITCHES, OPTIONS)
    if "help" in said.switches:
        print(HELP)
        return 0
    if len(places) != 1 or said.overrides:
        raise UserError("`core export` takes one run directory and no parameters; usage: core export RUN -o DIR")
    if "out" not in said.options:
        raise UserError("where to? Name the folder to write with -o")
    from importlib.metadata import version

    from core.train.export import export

    out = Path(said.options["out"])
    names = export(Path(places[0]), out, version("cellcore"))
    print(f"{out}  {', '.join(names)}")
    return 0
