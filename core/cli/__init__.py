"""The command `core`. Each verb is a small file here, imported only when it is asked for."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module

from core.errors import RunFailed, UserError
from core.names import near

VERBS = {
    "run": "train, evaluate and report one configuration",
    "ablate": "compare pieces over seeds: which help, at what cost, and how sure are we?",
    "resume": "go on with a run that was stopped or killed",
    "data": "prepare data sets",
    "push": "upload a prepared data set to the Hugging Face Hub",
    "report": "draw the report of a run anew",
    "evaluate": "score a finished run again, on any split, by any metrics",
    "sample": "fill in what a file of items lacks, with a finished run's model",
    "embed": "what a finished run's model makes of each item of a file",
    "export": "a finished run's model as a folder that describes itself",
    "inspect": "what a trained model is of: genes, names, split, statistics, versions",
    "list": "the pieces that are installed, by kind",
    "show": "one piece: its parameters, defaults and source",
    "check": "does a piece obey the laws of its kind?",
    "explain": "the resolved configuration, and where each value comes from",
    "doctor": "versions, device, broken or shadowed plugins",
}

HELP = """usage: core VERB ...

Models of cells and genomes, assembled from named pieces.

{verbs}

  core run                                              the embedded tissue, default pieces
  core run --attention gated_headwise --ffn moe4x2      other pieces, by name
  core run --data cells.h5ad                            your own cells

`core VERB --help` tells more."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a verb; the exit status: 0 done, 1 failed while running, 2 the user's mistake, 130 interrupted."""
    words = [*(sys.argv[1:] if argv is None else argv)]  # not `list`: that verb is a module of this package
    try:
        status = _dispatch(words)
        sys.stdout.flush()  # a closed pipe is to be noticed here, not when the interpreter ends
        return status
    except (UserError, RunFailed) as error:
        if str(error):  # a process that lost the others leaves it to its parent to say so
            print(f"core: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("core: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader (`| head`) has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _dispatch(words: list[str]) -> int:
    if len(words) > 1 and words[0] == "help":
        words = [words[1], "--help"]
    if not words or words[0] in ("-h", "--help", "help"):
        print(HELP.format(verbs="\n".join(f"  {verb:8}  {text}" for verb, text in VERBS.items())))
        return 0
    if words[0] in ("-V", "--version"):
        from importlib.metadata import version

        print(f"cellcore {version('cellcore')}")
        return 0
    verb, rest = words[0], words[1:]
    if verb in VERBS:
        return _sound(verb)(rest)
    extra = _further_verbs()
    if verb in extra:
        return int(extra[verb](rest) or 0)
    raise UserError(f"no verb is called {verb!r}.{near(verb, [*VERBS, *extra])} Verbs: {', '.join([*VERBS, *extra])}.")


def _sound(verb: str) -> Callable[[list[str]], int]:
    """A verb's function, after a look whether `plugins` is ours; the doctor may always come."""
    from core.registry import shadowed

    wrong = shadowed()
    if wrong and verb != "doctor":
        raise UserError(
            f"{wrong[0]} hides cellcore's own plugins in {wrong[1]}. Rename it, start from another folder, "
            "or use the command `core` (or `python -P -m core`), which does not look into the current folder"
        )
    return import_module(f"core.cli.{verb}").main


def _further_verbs() -> dict[str, Callable[[list[str]], int]]:
    """Verbs that third parties bring through hooks; their modules are loaded only for other words than ours."""
    from core.registry import installed

    registry = installed()
    if not registry.hooks:
        return {}
    from core.hooks import Hooks

    hooks = Hooks(registry, lambda text: print(f"core: {text}", file=sys.stderr))
    return {
        name: verb
        for brought in hooks.fire("core_verbs")
        if isinstance(brought, dict)
        for name, verb in brought.items()
    }
