"""`core embed`: what a trained model makes of each item of a file."""

from __future__ import annotations

from core.cli.place import apart, one_of, whole
from core.errors import UserError

HELP = """usage: core embed RUN FILE -o OUT [--layer NAME] [--patch N]

Write FILE with an embedding of each item, as the model of RUN (the directory of a finished run) sees it when nothing is
noised. The training data need not be there.

  -o, --out OUT    the file to write
  --layer NAME     last (default), after all layers: in the system `spatial` an item has read the others of its unit by
                   then, in `perturb` it is the mean over the genes of a cell, told its perturbations; or encoder
                   (`spatial`), before the first layer; or latent (`perturb`), the extractor's, mean over genes
  --patch N        most items that the model is shown at once (4096)

Flags of the run's data may follow where FILE keeps things elsewhere: `--data.position KEY`, `--data.layer NAME`."""

SWITCHES = {"-h": "help", "--help": "help"}
OPTIONS = {"-o": "out", "--out": "out", "--layer": "layer", "--patch": "patch"}


def main(words: list[str]) -> int:
    places, said = apart(words, SWITCHES, OPTIONS)
    if "help" in said.switches:
        print(HELP)
        return 0
    from core.cli.apply import applied, open_trained, target_of

    run, file = applied(places, "core embed RUN FILE -o OUT")
    out = target_of(said.options, file)
    patch = whole(said.options.get("patch", "4096"), "--patch", 1)
    trained = open_trained(run, said.overrides, sampled=False)
    layers = trained.system.layers()
    if not layers:
        raise UserError(f"the run's system, {trained.name}, has no embedding")
    layer = one_of(said.options.get("layer", next(iter(layers))), layers, "--layer")
    items = trained.items(file, layers[layer])
    parts = [
        (unit, {"embedding": trained.system.embed(trained.model, unit, layer, items.known, patch=patch)[None]})
        for unit in items.units()
    ]
    facts = {"layer": layer, "read": ", ".join(sorted(items.known)), "patch": patch}
    trained.save(items, out, parts, facts, ["embed", *words], fresh=False)
    return 0
