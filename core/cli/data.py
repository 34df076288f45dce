"""`core data`: what prepares data sets. Its subcommands come from manifests."""

from __future__ import annotations

import difflib

from core.errors import UserError
from core.registry import BUILTIN, installed

HELP = """usage: core data SUBCOMMAND ...

Prepare data sets for training.

{verbs}

  core data prepare raw/*.h5ad --genes genes.txt -o processed
  core run --data processed

`core data SUBCOMMAND --help` tells more."""


def main(words: list[str]) -> int:
    verbs = installed().verbs.get("data", {})
    if not words or words[0] in ("-h", "--help", "help"):
        brought = {n: "" if v.origin.name == BUILTIN else f"  [{v.origin}]" for n, v in verbs.items()}
        wide = max(map(len, verbs), default=0)
        print(HELP.format(verbs="\n".join(f"  {n:{wide}}  {v.summary}{brought[n]}" for n, v in verbs.items())))
        return 0
    if words[0] not in verbs:
        hits = difflib.get_close_matches(words[0], verbs, n=1)  # `stage1` and `stage2` differ in their number alone
        hint = f" Did you mean {hits[0]!r}?" if hits else ""
        raise UserError(f"`core data` has no subcommand {words[0]!r}.{hint} Subcommands: {', '.join(verbs)}")
    return int(verbs[words[0]].load()(words[1:]) or 0)
