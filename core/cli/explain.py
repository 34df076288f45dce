"""`core explain`: the resolved configuration, and where each value comes from."""

from __future__ import annotations

import sys
from typing import Any

from core.cli.choose import describe, resolve_run, take_apart
from core.config import Resolved
from core.errors import UserError

HELP = """usage: core explain [KEY] [FILE.toml ...] [--KEY VALUE ...]

The configuration that `core run` with the same words would train: every value with its whole chain of origins, the
winner first. With KEY (`ffn`, `ffn.top_k`, `gate`) only that branch. For an attention it also says which kernel would
run and why the others would not. No data are read."""


def main(words: list[str]) -> int:
    key = words[0] if words and not words[0].startswith("-") and not words[0].endswith(".toml") else None
    said = take_apart(words[1:] if key else words, switches={"-h": "help", "--help": "help"}, options={})
    if "help" in said.switches:
        print(HELP)
        return 0
    resolved = resolve_run(said.files, said.overrides)
    lines = describe(resolved)
    if key:
        paths = [*resolved.settings]
        homes = [path for path in paths if path.rpartition(".")[2] == key]
        key = homes[0] if key not in paths and len(homes) == 1 else key
        lines = [li for li, p in zip(lines, paths, strict=True) if p == key or p.startswith((f"{key}.", f"{key}["))]
        if not lines:
            from core.names import near

            raise UserError(f"{key!r} is no value of this configuration.{near(key, paths)}")
    print("\n".join(lines))
    for line in _kernels(resolved, key):
        print(line)
    for note in resolved.notes:
        print(f"note: {note}", file=sys.stderr)
    return 0


def _kernels(resolved: Resolved, key: str | None) -> list[str]:
    """What computes the attentions of a configuration, a block each."""
    lines = []
    device = resolved.root.strategy.device(resolved.root.device).type
    for path, setting in resolved.slots().items():
        if setting.field.kind == "attention" and (key is None or f"{path}.".startswith(f"{key}.")):
            plan = _at(resolved.root, path).plan(device)
            lines += ["", f"kernels of {path} ({setting.value}) on {device}", *(f"  {line}" for line in plan)]
    return lines


def _at(root: Any, path: str) -> Any:
    """The piece at a dotted path; the parts of an inline piece stand beside it."""
    for word in path.split("."):
        root = getattr(root if hasattr(root, word) else root.system, word)
    return root
