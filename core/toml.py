"""A resolved configuration as TOML that can be read back, each value with its origins in a comment."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import tomlkit

from core.config import Resolved, Setting


def dump(resolved: Resolved) -> str:
    """The whole configuration, plain keys before tables. Read as a file it resolves to the same identity."""
    tables: dict[str, list[str]] = {"": []}
    settings = {p: s for p, s in resolved.settings.items() if "[" not in p and s.value is not None}
    for path, setting in settings.items():
        home, _, key = path.rpartition(".")
        if setting.row is not None and any(p.startswith(f"{path}.") for p in resolved.settings):
            home, key = path, "name"
        tables.setdefault(home, []).append(_line(key, setting.value, origins(setting)))
    for path in dict.fromkeys(p.partition("[")[0] for p in resolved.settings if "[" in p):
        home, _, key = path.rpartition(".")
        calls = list(_calls(path, resolved))
        tables.setdefault(home, []).append(_line(key, calls, resolved.settings[f"{path}[0]"].origin))
    text = "# The resolved configuration of a run; `core run config.toml` repeats it.\n"
    for name, lines in tables.items():
        text += (f"\n[{name}]\n" if name else "") + "\n".join(lines) + "\n"
    return text


def origins(setting: Setting) -> str:
    """The chain in words, winner first: `CLI --ffn.top_k (was 4: name moe4x4; 2: default of Moe)`."""
    last, earlier = setting.chain[-1], list(reversed(setting.chain[:-1]))
    was = "; ".join(f"{_spell(link.value)}: {link.origin}" for link in earlier)
    return last.origin + (f" (was {was})" if was else "")


def parts(resolved: Resolved) -> str:
    """Who fills each slot: qualified name, version, revision, target; as TOML."""
    text = "# The pieces of a run and who brought them.\n"
    for path, row in ((p, s.row) for p, s in resolved.settings.items()):
        if row is not None:
            text += f'\n["{path}"]\n' + "".join(
                f"{key} = {tomlkit.item(value).as_string()}\n"
                for key, value in (
                    ("name", row.qualified),
                    ("version", row.origin.version),
                    ("revision", row.revision),
                    ("target", row.target),
                )
            )
    return text


def _line(key: str, value: Any, comment: str) -> str:
    plain = list(value) if isinstance(value, tuple) else value
    return f"{key} = {tomlkit.item(plain).as_string()}  # {' '.join(comment.split())}"


def _calls(path: str, resolved: Resolved) -> Iterable[str]:
    """Each listed piece as a call with all its values, so that reading it back needs no defaults."""
    for at, setting in resolved.settings.items():
        if at.startswith(f"{path}[") and at.endswith("]"):
            inside = {p.removeprefix(f"{at}."): s.value for p, s in resolved.settings.items() if p.startswith(f"{at}.")}
            args = ", ".join(f"{k}={tomlkit.item(v).as_string()}" for k, v in inside.items() if v is not None)
            yield f"{setting.value}({args})" if args else str(setting.value)


def _spell(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
