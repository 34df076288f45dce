"""`core data split` and `core data fetch`."""

from __future__ import annotations

import sys
from pathlib import Path

HELP_SPLIT = """usage: core data split SCREEN.h5ad -o SPLIT.json [--cut.by SCHEME] [--force] [flags of the data]

Divide the conditions of a perturbation screen and write the division down: scheme, seed, what data it was made for, the
conditions of train, valid and test, and how new each held-out one is. Flags are those of the data `perturb_h5ad`
(`core show data perturb_h5ad`), such as

  --force           write over SPLIT.json if it is there
  --cut.by SCHEME   additive, holdout, simulation, kfold, covariate, combosciplex7
  --cut.fold N      another draw of the same scheme
  --cut.hold A,B    held-out perturbations (holdout) or levels (covariate)
  --condition KEY   column of obs with the conditions
  --covariates A,B  columns of obs in which cells are compared with control cells of their own

The same command with another --cut.fold makes another split. Train by it with

  core run --system perturb --data SCREEN.h5ad --data.cut.by file --data.cut.file SPLIT.json"""

HELP_FETCH = """usage: core data fetch NAME -o FILE.h5ad [--from COPY] [--sha256 SUM]

Get a published perturbation screen and check it.

{screens}

  --from COPY    a copy that is there already, in place of a download
  --sha256 SUM   the checksum that the file must have

A download is compared with the size and the MD5 that the archive lists for it. The SHA-256 of any copy is written down
beside it the first time (FILE.sha256.json) and compared from then on; this program knows no checksum by itself."""

HELP = {"-h": "help", "--help": "help"}


def split(words: list[str]) -> int:
    """`core data split`."""
    from core.cli.place import apart
    from core.config import resolve
    from core.errors import UserError
    from core.files import spare
    from core.layers import cli_layer
    from core.registry import installed

    places, said = apart(words, {**HELP, "--force": "force"}, {"-o": "out", "--out": "out"})
    if "help" in said.switches:
        print(HELP_SPLIT)
        return 0
    if len(places) != 1:
        raise UserError(
            f"`core data split` takes one .h5ad file, not {len(places)}. `core data split --help` tells more"
        )
    out = _target(said.options.get("out", ""), "split", "SPLIT.json")
    spare(out, force="force" in said.switches)
    from plugins.data.perturb_h5ad import PerturbH5ad
    from plugins.data.screen_split import write_split

    row = installed().find("data", "perturb_h5ad").row
    data = resolve(PerturbH5ad, [cli_layer(["--path", places[0], *said.overrides])], installed(), row).root
    source = data.open()
    told = source.document
    write_split(out, told)
    print(out)
    counts = ", ".join(f"{len(told[name])} {name}" for name in ("train", "valid", "test"))
    _tell(f"{told['scheme']}, seed {told['seed']}: {counts} conditions; {told['says']}")
    return 0


def fetch(words: list[str]) -> int:
    """`core data fetch`."""
    from core.cli.place import apart
    from core.errors import UserError
    from plugins.data import screen_fetch as work

    options = {"-o": "out", "--out": "out", "--from": "from", "--sha256": "sha256"}
    places, said = apart(words, HELP, options)
    if "help" in said.switches:
        screens = "\n".join(f"  {name:14} {one.paper}; {one.page}" for name, one in work.SCREENS.items())
        print(HELP_FETCH.format(screens=screens))
        return 0
    if said.overrides:
        raise UserError(f"`core data fetch` has no flag {said.overrides[0]}; it has -o, --from and --sha256")
    if len(places) != 1:
        raise UserError(f"`core data fetch` takes one name of {', '.join(work.SCREENS)}, not {len(places)}")
    screen = work.published(places[0])
    out = _target(said.options.get("out", ""), "fetch", screen.file)
    given = Path(said.options["from"]).expanduser() if "from" in said.options else None
    if given is not None and out.exists() and given.exists() and given.samefile(out):
        raise UserError(f"--from and -o are the same file, {out}")
    work.fetch(places[0], out, given, said.options.get("sha256", ""), _tell, work.open_url)
    print(out)
    _tell(f"core run --system perturb --data {out}{screen.use}")
    return 0


def _target(text: str, verb: str, example: str) -> Path:
    from core.errors import UserError

    if not text:
        raise UserError(f"where to? Name the file to write with -o, as in `core data {verb} ... -o {example}`")
    out = Path(text).expanduser()
    if out.is_dir() or not out.absolute().parent.is_dir():
        raise UserError(
            f"-o {text}: {'is a folder' if out.is_dir() else 'its folder is not there'}; name a file to write"
        )
    return out


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
