"""What a condition of a screen is: a set of perturbations, whatever the order and the spelling of its label.

`A+B` and `B+A` are one condition, `A+ctrl` and `ctrl+A` are `A`, and `ctrl+ctrl` is the control. Members are ordered by
name, so that a condition has one canonical text.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TypeAlias, final

import attrs

from core.errors import UserError
from core.names import near

CONTROL = "control"
"""the canonical text of the empty set"""
ALIASES = ("control", "ctrl", "non-targeting", "NT")
"""labels that mean no perturbation, alone or beside one (`A+ctrl` is `A`); upper and lower case count alike"""
JOIN = "+"
WITHIN = "|"
"""stands between a condition and the covariates of a unit"""

Members: TypeAlias = tuple[str, ...]
"""perturbations of a condition, ordered, each once; empty: control"""


@final
@attrs.frozen(kw_only=True)
class Labels:
    """How the labels of conditions are read. Canonical texts join perturbations by `+`, whatever the file uses.

    Raises:
        ValueError: a separator or a label of control cells that is empty.
    """

    separator: str = "+"
    control: tuple[str, ...] = ALIASES

    def __attrs_post_init__(self) -> None:
        if not self.separator.strip() or self.separator.strip() == WITHIN:
            raise ValueError(
                f"separator = {self.separator!r}: give what stands between two perturbations, such as + or _"
            )
        if not self.control or not all(alias.strip() for alias in self.control):
            raise ValueError(
                f"control = {list(self.control)}: name at least one label of control cells, none of them empty"
            )

    def read(self, label: str) -> Members:
        """The perturbations that a label names.

        Raises:
            ValueError: an empty label or part of one, or a name that holds `+` or `|`, with half a sentence.
        """
        aliases = {alias.strip().casefold() for alias in self.control}
        whole = label.strip()
        # A separator such as `-` also stands inside `non-targeting`, so the whole label is looked at first.
        if whole.casefold() in aliases:
            return ()
        parts = [part.strip() for part in whole.split(self.separator)]
        if not all(parts):
            raise ValueError("names a perturbation without a name" if whole else "is empty")
        members = sorted({part for part in parts if part.casefold() not in aliases})
        for member in members:
            if JOIN in member or WITHIN in member:
                raise ValueError(
                    f"names the perturbation {member!r}, and {JOIN} and {WITHIN} are kept for joining: is `separator` "
                    f"= {self.separator!r} right? If so, rename it"
                )
        return tuple(members)


def spell(members: Members) -> str:
    """The canonical text of a condition."""
    return JOIN.join(members) or CONTROL


def read_canonical(text: str) -> Members:
    """The members of a text that `spell` wrote, parts in any order."""
    return () if text == CONTROL else tuple(sorted(set(text.split(JOIN))))


def apart(name: str) -> tuple[Members, str]:
    """Perturbations and stratum of a unit's name: `A+B|K562` -> (A, B) and `K562`; () for controls."""
    text, _, stratum = name.partition(WITHIN)
    return read_canonical(text), stratum


def joined(text: str, stratum: str) -> str:
    """A canonical text with its stratum, which may be empty."""
    return f"{text}{WITHIN}{stratum}" if stratum else text


def known(members: Members, names: Collection[str], who: str) -> None:
    """Refuse perturbations that a model has no code for.

    Raises:
        UserError: with the nearest names.
    """
    for member in members:
        if member not in names:
            of = f" of {spell(members)!r}" if len(members) > 1 else ""
            raise UserError(
                f"{who}: the perturbation {member!r}{of} is not among the {len(names)} that the run "
                f"was trained on.{near(member, names)} A model has no parameters for one that its data do not name"
            )


def category(members: Members, seen: Collection[str]) -> str:
    """How new a condition is: of its perturbations, how many are in some condition that was trained on.

    `unseen_single`, `seen_single`, `combo_seen0`, `combo_seen1`, `combo_seen2` (Roohani, Huang and Leskovec 2024, Nat
    Biotechnol 42:927); for more than two together `combo_seenK` as well.
    """
    count = sum(member in seen for member in members)
    if len(members) < 2:
        return "seen_single" if count else "unseen_single"
    return f"combo_seen{count}"


def names_of(conditions: Iterable[Members]) -> tuple[str, ...]:
    """All perturbations of some conditions, in order."""
    return tuple(sorted({member for members in conditions for member in members}))
