"""Which runs are the same run: SHA-256 over everything that can change a number."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from core.errors import UserError

if TYPE_CHECKING:  # a trial's process hashes values and resolves nothing
    from core.config import Resolved
    from core.kinds import Plugin

NUMERICS = 2
"""revision of core's own arithmetic (trainer, streams); bumped when it changes, so that old runs no longer match"""


def canonical_json(value: Any) -> str:
    """One text for one value: sorted keys, no spaces, shortest floats, -0.0 as 0.0, tuples as lists.

    Raises:
        ValueError: nan or infinity, which have no canonical form, or a type or key that JSON does not know.
    """
    return json.dumps(plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def plain(value: Any) -> Any:
    """A value in the types of JSON: tuples as lists, -0.0 as 0.0."""
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise ValueError("a key that is no text has no canonical form")
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, float):
        return value + 0.0
    if value is None or isinstance(value, (bool, int, str)):
        return value
    raise ValueError(f"{type(value).__name__} has no canonical form")


def digest(value: Any) -> str:
    """SHA-256 of the canonical JSON, 64 hex digits."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def run_identity(resolved: Resolved, fingerprint: str, device: str) -> dict[str, Any]:
    """What makes a run this run: values, who implements each piece, the files it reads, the data, the device class.

    Raises:
        UserError: a piece reads a file that is missing.
    """
    config = {p: s.value for p, s in resolved.settings.items() if s.identity and s.row is None}
    parts = {
        p: f"{s.row.qualified}@{s.row.revision}"
        for p, s in resolved.settings.items()
        if s.identity and s.row is not None
    }
    read = {
        p: _read(resolved, p, piece)
        for p, piece in resolved.pieces.items()
        if piece is not None and resolved.settings[p].identity
    }
    files = {p: content for p, content in read.items() if content}
    return {
        "config": config,
        "parts": parts,
        **({"files": files} if files else {}),
        "data": fingerprint,
        "device": device,
        "streams": "sha256(purpose, seed, index)",
        "numerics": NUMERICS,
    }


def _read(resolved: Resolved, path: str, piece: Plugin) -> str | None:
    """Who the files are that a piece reads; an error tells who named them."""
    try:
        return piece.fingerprint()
    except UserError as error:
        raise UserError(f"{error} ({resolved.sayers(path)})") from None


def same_but_code(there: Mapping[str, Any], here: Mapping[str, Any]) -> bool:
    """Whether two identities ask for the same pieces, values, files, data and device, so that what differs is the code:
    a revision of a piece or of core's arithmetic, or a parameter that only one version has."""
    code = ("config", "parts", "streams", "numerics")
    old, new = ({k: v for k, v in identity.items() if k not in code} for identity in (there, plain(here)))
    names_old, names_new = (
        {path: str(part).partition("@")[0] for path, part in identity.get("parts", {}).items()}
        for identity in (there, here)
    )
    config_old, config_new = there.get("config", {}), plain(here.get("config", {}))
    shared = config_old.keys() & config_new.keys()
    return old == new and names_old == names_new and all(config_old[key] == config_new[key] for key in shared)


def difference(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """In which values two identities of runs differ, the first three in words."""
    flat_there, flat_here = (
        {**{k: v for k, v in i.items() if k not in ("config", "parts")}, **i.get("parts", {}), **i.get("config", {})}
        for i in (there, plain(here))
    )
    keys = [k for k in {**flat_there, **flat_here} if flat_there.get(k) != flat_here.get(k)]
    told = "; ".join(
        f"{k} is {flat_there.get(k, 'absent')} there and {flat_here.get(k, 'absent')} here" for k in keys[:3]
    )
    return told + (f", and {len(keys) - 3} more" if len(keys) > 3 else "")
