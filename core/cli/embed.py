"""`core embed`: what a trained model makes of each item of a file."""

from __future__ import annotations

from core.cli.place import apart, whole

HELP = """usage: core embed RUN FILE -o OUT [--layer NAME] [--patch N] [--force]

Write FILE with an embedding of each item, as the model of RUN (the directory of a finished run) sees it when nothing is
noised. The training data need not be there.

  -o, --out OUT    the file to write
  --force          write over OUT if it is there
  --layer NAME     last (default), after all layers: in the system `spatial` an item has read the others of its unit by
                   then, in `perturb` it is the mean over the genes of a cell, told its perturbations; or encoder
                   (`spatial`), before the first layer; or latent (`perturb`), the extractor's, mean over genes
  --patch N        most items that the model is shown at once (4096)

Flags of the run's data may follow where FILE keeps things elsewhere: `--data.position KEY`, `--data.layer NAME`."""

SWITCHES = {"-h": "help", "--help": "help", "--force": "force"}
OPTIONS = {"-o": "out", "--out": "out", "--layer": "layer", "--patch": "patch"}


def main(words: list[str]) -> int:
    places, said = apart(words, SWITCHES, OPTIONS)
    if "help" in said.switches:
        print(HELP)
        return 0
    from core.cli.apply import applied, open_trained, say, target_of

    run, file = applied(places, "core embed RUN FILE -o OUT")
    out = target_of(said.options, file, force="force" in said.switches)
    patch = whole(said.options.get("patch", "4096"), "--patch", 1)
    trained = open_trained(run, said.overrides, sampled=False)
    trained.fits(out, file)
    items, parts, facts = trained.embedded(file, said.options.get("layer"), patch, say)
    command = " ".join(["core", "embed", *words])
    print(f"{out}  {trained.write(items, out, parts, {'command': command, **facts}, fresh=False)}")
    return 0
