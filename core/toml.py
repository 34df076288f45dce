"""A resolved configuration as TOML that can be read back, each value with its origins in a comment."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import tomlkit

from core.config import Resolved, Setting
from core.registry import BUILTIN


def dump(resolved: Resolved) -> str:
    """The whole configuration, plain keys before tables. Read as a file it resolves to the same identity."""
    tables: dict[str, list[str]] = {"": []}
    settings = {p: s for p, s in resolved.settings.items() if "[" not in p and _told(s)}
    for path, setting in settings.items():
        home, _, key = path.rpartition(".")
        if setting.row is not None and any(p.startswith(f"{path}.") for p in resolved.settings):
            home, key = path, "name"
        tables.setdefault(home, []).append(_line(key, _spoken(setting), origins(setting)))
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
    """Who fills each slot: kind, qualified name, version, revision, target; as TOML."""
    text = "# The pieces of a run and who brought them.\n"
    for path, row in ((p, s.row) for p, s in resolved.settings.items()):
        if row is not None:
            text += f'\n["{path}"]\n' + "".join(
                f"{key} = {tomlkit.item(value).as_string()}\n"
                for key, value in (
                    ("kind", row.kind),
                    ("name", row.qualified),
                    ("version", row.origin.version),
                    ("revision", row.revision),
                    ("target", row.target),
                )
            )
    return text


def _told(setting: Setting) -> bool:
    """Whether a value must be written; TOML has no null, so an empty default goes without saying."""
    return setting.value is not None or setting.field.default is not None


def _spoken(setting: Setting) -> Any:
    """What a file says to get this value again; a third party's piece by its full name, which no other can claim."""
    if setting.value is None:
        return "none"
    row = setting.row
    return setting.value if row is None or row.origin.name == BUILTIN else row.qualified


def _line(key: str, value: Any, comment: str) -> str:
    plain = list(value) if isinstance(value, tuple) else value
    legible = "".join(char if char.isprintable() else " " for char in comment)
    return f"{key} = {tomlkit.item(plain).as_string()}  # {' '.join(legible.split())}"


def _calls(path: str, resolved: Resolved) -> Iterable[str]:
    """Each listed piece as a call with all its values, so that reading it back needs no defaults."""
    for at, setting in resolved.settings.items():
        if at.startswith(f"{path}[") and at.endswith("]"):
            inside = {p.removeprefix(f"{at}."): s for p, s in resolved.settings.items() if p.startswith(f"{at}.")}
            said = {
                k: list(s.value) if isinstance(s.value, tuple) else _spoken(s) for k, s in inside.items() if _told(s)
            }
            args = ", ".join(f"{k}={tomlkit.item(v).as_string()}" for k, v in said.items())
            yield f"{_spoken(setting)}({args})" if args else str(_spoken(setting))


def _spell(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
