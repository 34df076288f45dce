"""Names of conditions: sets of perturbations, in one spelling whatever the file's own."""

from __future__ import annotations

from collections.abc import Collection

from core.errors import UserError

CONTROL = "control"
"""the condition without perturbation"""
BETWEEN = "+"
STRATUM = "|"
ALIASES = frozenset({"control", "ctrl", "non-targeting", "non_targeting", "nontargeting", "nt", "unperturbed"})
"""what files call a control, in lower case; also as a member of a pair, as in `A+ctrl`"""


def canonical(raw: str, controls: Collection[str] = ()) -> str:
    """`B+A`, `A+B`, `A+B+ctrl` -> `A+B`; `ctrl`, `NT`, `control+control` -> `control`.

    Args:
        raw: as a file has it.
        controls: further labels of controls, as they are spelled.

    Raises:
        UserError: nothing is left of the name.
    """
    if raw.strip() in controls:
        return CONTROL
    parts = {part.strip() for part in raw.split(BETWEEN)}
    if parts <= {""}:
        raise UserError(f"the condition {raw!r} names no perturbation; give it a name or take its cells out")
    kept = sorted(part for part in parts if part and part.lower() not in ALIASES and part not in controls)
    return BETWEEN.join(kept) or CONTROL


def split(condition: str) -> tuple[tuple[str, ...], str]:
    """Perturbations and stratum of a canonical name: `A+B|K562` -> (A, B) and `K562`; () for controls."""
    name, _, stratum = condition.partition(STRATUM)
    return (() if name == CONTROL else tuple(name.split(BETWEEN))), stratum


def joined(name: str, stratum: str) -> str:
    """A canonical name with its stratum, which may be empty."""
    return f"{name}{STRATUM}{stratum}" if stratum else name
