"""`core list`: what is installed, without importing any of it."""

from __future__ import annotations

import json
import sys

from core.cli.choose import take_apart
from core.errors import UserError
from core.names import near
from core.registry import BUILTIN, KINDS, Registry, Row, installed

HELP = """usage: core list [KIND] [--json]

The installed pieces, by kind: name, what it is, and who brought it where that is not cellcore itself."""


def main(words: list[str]) -> int:
    kinds = [w for w in words if not w.startswith("-")]
    said = take_apart(
        [w for w in words if w.startswith("-")], switches={"-h": "help", "--help": "help", "--json": "json"}, options={}
    )
    if "help" in said.switches:
        print(HELP)
        return 0
    if said.overrides:
        raise UserError(f"`core list` has no flag {said.overrides[0]}.{near(said.overrides[0], ['--json', '--help'])}")
    if len(kinds) > 1:
        raise UserError(f"`core list` takes one kind, not {' '.join(kinds)}")
    registry = installed()
    shown = kinds or registry.kinds()
    rows = {kind: registry.rows(kind) + registry.disputed(kind) for kind in shown}
    if "json" in said.switches:
        print(json.dumps({kind: [_facts(row) for row in found] for kind, found in rows.items()}, indent=1))
    else:
        _print(rows, registry, everything=not kinds)
    for broken in registry.broken:
        print(f"broken: {broken.origin}: {broken.reason}", file=sys.stderr)
    return 0


def _print(rows: dict[str, list[Row]], registry: Registry, everything: bool) -> None:
    wide = max((len(row.spoken) for found in rows.values() for row in found), default=0)
    for kind, found in rows.items():
        print(f"{kind}: {KINDS[kind]}")
        for row in found:
            name = row.spoken if row in registry.rows(kind) else row.qualified
            brought = "" if row.origin.name == BUILTIN else f"  [{row.origin}]"
            print(f"  {name:{wide}}  {row.summary}{brought}")
        if not found:
            print("  none installed")
    for kind, name, claims, winner in registry.clashes():
        if kind in rows:
            settled = f"{winner.qualified} answers" if winner else "say which by its full name"
            print(f"clash: {kind} {name}: {', '.join(r.qualified for r in claims)}; {settled}")
    empty = [kind for kind in KINDS if kind not in rows]
    if everything and empty:
        print(f"kinds without a piece yet: {', '.join(empty)}")


def _facts(row: Row) -> dict[str, object]:
    return {
        "name": row.name,
        "spoken": row.spoken,
        "qualified": row.qualified,
        "summary": row.summary,
        "source": row.source,
        "version": row.origin.version,
        "revision": row.revision,
    }
