"""cellcore: models of cells and genomes, assembled from named pieces.

`core.load("attention", "gated_headwise")` gives a piece's parameter class; everything else is reached by the command
`core` or by the interfaces in `core.kinds`.
"""

from __future__ import annotations

from typing import Any

__all__ = ["load", "part"]


def load(kind: str, name: str) -> type:
    """The parameter class behind a name, such as `load("ffn", "moe4x2")`.

    Raises:
        UserError: no such kind or name, or its package cannot be imported.
    """
    from core.registry import installed

    return installed().find(kind, name).row.load()


def part(kind: str, name: str, **values: Any) -> Any:
    """A plugin with its parameters and nested slots resolved, ready to `build`.

    `part("attention", "gated_headwise", heads=4, gate="elementwise")`; dotted keys are given as
    `part("attention", "softmax", **{"gate.bias": 2.0})`.

    Raises:
        UserError: an unknown name or parameter, or a value out of its range.
    """
    from core.config import resolve_part

    return resolve_part(kind, name, values)


def __getattr__(name: str) -> str:
    if name == "__version__":
        from importlib.metadata import version

        return version("cellcore")
    raise AttributeError(f"module 'core' has no attribute {name!r}")
