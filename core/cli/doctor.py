"""`core doctor`: is this installation sound?"""

from __future__ import annotations

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version

from core.errors import UserError
from core.hooks import Hooks
from core.registry import BUILTIN, installed, shadowed, user_config

HELP = """usage: core doctor

Versions, device, and everything that is broken: manifests, plugins that do not load, names claimed twice, a folder
that hides our own. Exit status 1 if anything is wrong."""

SHOWN = ("cellcore", "torch", "numpy", "scipy", "anndata", "attrs", "cattrs", "pluggy", "safetensors", "pyarrow")


def main(words: list[str]) -> int:
    if words and words[0] in ("-h", "--help"):
        print(HELP)
        return 0
    if words:
        raise UserError(f"`core doctor` takes no words, not {' '.join(words)}")
    problems: list[str] = []
    print(f"python       {platform.python_version()} ({sys.executable})")
    for name in SHOWN:
        try:
            print(f"{name:12} {version(name)}")
        except PackageNotFoundError:
            print(f"{name:12} missing")
            problems.append(f"{name} is not installed: pip install {name}")
    print(f"device       {_device(problems)}")
    print(f"settings     {user_config()}{'' if user_config().exists() else ' (none)'}")
    wrong = shadowed()
    if wrong:
        problems.append(f"{wrong[0]} hides cellcore's own plugins in {wrong[1]}; rename it or start elsewhere")
    registry = installed()
    Hooks(registry, problems.append)
    problems += [f"{b.origin}: {b.reason}" for b in registry.broken]
    for kind, name, claims, winner in registry.clashes():
        if winner is None:
            problems.append(
                f"{kind} {name!r} is claimed by {', '.join(r.qualified for r in claims)}: settle it with [prefer]"
            )
        else:
            print(f"clash        {kind} {name}: {winner.qualified} answers of {', '.join(r.qualified for r in claims)}")
    for wish, distribution in registry.prefer.items():
        kind, _, name = wish.partition(".")
        try:
            registry.find(kind, f"{distribution}/{name}")
        except UserError as error:
            problems.append(f"{user_config()}: [prefer] {wish}: {error}")
    count = 0
    for kind in registry.kinds():
        for row in registry.rows(kind):
            count += 1
            try:
                if kind != "recipe":
                    row.load()
            except UserError as error:
                problems.append(str(error))
    others = sorted({r.origin.name for k in registry.kinds() for r in registry.rows(k)} - {BUILTIN})
    print(
        f"pieces       {count} in {len(registry.kinds())} kinds"
        + (f", also from {', '.join(others)}" if others else "")
    )
    for problem in problems:
        print(f"problem      {problem}")
    print("all is well" if not problems else f"{len(problems)} problem{'s' if len(problems) > 1 else ''}")
    return 1 if problems else 0


def _device(problems: list[str]) -> str:
    try:
        import torch
    except ImportError as error:
        problems.append(f"torch does not import: {error}")
        return "unknown"
    threads = f"{torch.get_num_threads()} threads of {os.cpu_count()} cores"
    return torch.cuda.get_device_name() if torch.cuda.is_available() else f"cpu, {threads}"
